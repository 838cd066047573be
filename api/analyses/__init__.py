"""What an analysis found: the similarity matrix and the table of layers."""

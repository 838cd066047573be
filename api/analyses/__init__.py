"""The results of an analysis: the similarity matrix and the table of layers."""

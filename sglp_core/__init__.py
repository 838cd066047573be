"""Similarity-Guided Layer Partition pruning (arXiv 2410.14720) as a library."""

"""Changing the weights that remain so that they make up for the removed layers, without training."""

"""Measuring a dense model: similarity of layers, importance, segments."""

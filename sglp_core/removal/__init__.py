"""Removing layers from a model, or bypassing them in it."""

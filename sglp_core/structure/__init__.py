"""What a model is, from its configuration alone."""

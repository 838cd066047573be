"""From a model's URI to loaded weights."""

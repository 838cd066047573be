"""What a model is worth: quality, footprint, latency."""

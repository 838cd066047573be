"""Quality, footprint and latency of models."""

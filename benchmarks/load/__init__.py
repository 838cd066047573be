"""The API under load beside a bare endpoint: `python -m benchmarks.load`."""

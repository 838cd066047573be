"""The service about itself: health, version, architectures, metrics."""

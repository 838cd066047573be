"""A job's events, as pages and as a stream."""

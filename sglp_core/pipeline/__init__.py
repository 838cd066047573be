"""The steps in order: analyze, compress, sweep."""

"""HTTP over `jobs`."""

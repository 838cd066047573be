"""Where models, data and results may lie: URIs, destinations of results, and network addresses."""

"""The routes, a file per resource."""

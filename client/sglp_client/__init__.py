"""The Python SDK and the `sglp` command."""

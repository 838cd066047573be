"""The `sglp` command."""

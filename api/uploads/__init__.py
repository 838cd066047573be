"""Files that a client sends in."""

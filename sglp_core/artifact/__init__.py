"""Writing the smaller checkpoint, and proving that it loads."""

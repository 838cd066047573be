"""Side-by-side measurements; every module is a command that prints a table."""

"""The files that a job published, and their download."""

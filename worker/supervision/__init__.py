"""One job's child process and its lease."""

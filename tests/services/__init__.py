"""Real servers for tests, as local processes on free ports."""

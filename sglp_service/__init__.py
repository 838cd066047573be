"""The commands that need the service's own packages: `up`, `demo`, `compress`, `sweep`, `estimate`."""

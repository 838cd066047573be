"""Jobs under random faults, and whether every promise was kept: `make chaos`."""

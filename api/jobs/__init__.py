"""Submitting, reading, cancelling, retrying and deleting jobs."""

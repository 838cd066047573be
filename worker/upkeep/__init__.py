"""Duties of the scheduler beside queueing: removing old data and delivering webhooks."""

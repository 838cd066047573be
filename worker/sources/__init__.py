"""Fetching models and data for a job."""

"""Requests to addresses that a user chose."""

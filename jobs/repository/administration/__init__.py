"""Tenants, their keys, what was done with them, and how a tenant goes."""

"""Tenants, API keys and the audit log, for administrators."""

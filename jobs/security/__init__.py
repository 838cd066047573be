"""Secrets: API keys as they are checked, and webhook secrets as they are stored."""

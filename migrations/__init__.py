"""Alembic migrations of the tables in `jobs`."""

"""What a job is: its specification, states, tables, queries, artifacts and settings."""

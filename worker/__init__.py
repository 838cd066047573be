"""Celery over `jobs`: claims a job, supervises it, runs `sglp_core` in a child process."""

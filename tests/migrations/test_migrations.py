"""The schema's history on both databases."""

import os
import subprocess
import sys

import alembic.command
from sqlalchemy import create_engine, inspect

from jobs.database import alembic_config, migrate


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def test_up_down_up(empty_database_url: str) -> None:
    config = alembic_config(empty_database_url)
    alembic.command.upgrade(config, "head")
    first = tables(empty_database_url)
    alembic.command.downgrade(config, "base")
    assert tables(empty_database_url) == {"alembic_version"}
    alembic.command.upgrade(config, "head")
    assert tables(empty_database_url) == first > {"alembic_version", "analyses", "artifacts", "job_events", "jobs"}


def test_the_tables_in_code_are_the_tables_of_the_migrations(database_url: str) -> None:
    alembic.command.check(alembic_config(database_url))


def test_migrating_twice_changes_nothing(empty_database_url: str) -> None:
    migrate(empty_database_url)
    migrate(empty_database_url)
    alembic.command.check(alembic_config(empty_database_url))


def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    command = [sys.executable, "-m", "jobs.database"]
    environment = {**os.environ, "SGLP_DATABASE_URL": empty_database_url}
    processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    alembic.command.check(alembic_config(empty_database_url))

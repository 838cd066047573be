"""The schema's history on both databases."""

import os
import subprocess
import sys

import alembic.command
import pytest
from sqlalchemy import create_engine, inspect, text

from jobs.database import alembic_config, migrate, open_engine
from jobs.tables import Base
from tests.services.postgresql import PostgreSQL


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
    assert tables(empty_database_url) == first == {"alembic_version", *Base.metadata.tables}


def test_the_tables_in_code_are_the_tables_of_the_migrations(database_url: str) -> None:
    alembic.command.check(alembic_config(database_url))


def test_migrating_twice_changes_nothing(empty_database_url: str) -> None:
    migrate(empty_database_url)
    migrate(empty_database_url)
    alembic.command.check(alembic_config(empty_database_url))


def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    command = [sys.executable, "-m", "jobs", "migrate"]
    environment = {**os.environ, "SGLP_DATABASE_URL": empty_database_url}
    processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    alembic.command.check(alembic_config(empty_database_url))


def test_making_room_for_sealed_secrets_loses_no_endpoint_and_no_delivery(empty_database_url: str) -> None:
    config = alembic_config(empty_database_url)
    alembic.command.upgrade(config, "0007")
    engine = open_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO webhook_endpoints (id, tenant, url, event_types, secret, created_at)"
                " VALUES ('whe_1', 'default', 'https://example.com/', '[]', 'whsec_x', '2026-01-01')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO webhook_deliveries (id, endpoint_id, job_id, event_type, created_at, attempts)"
                " VALUES ('msg_1', 'whe_1', 'job_1', 'job.failed', '2026-01-01', 0)"
            )
        )
    alembic.command.upgrade(config, "0008")
    alembic.command.downgrade(config, "0007")
    alembic.command.upgrade(config, "0008")
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT secret FROM webhook_endpoints")) == "whsec_x"
        assert connection.scalar(text("SELECT endpoint_id FROM webhook_deliveries")) == "whe_1"
        connection.execute(text("UPDATE webhook_endpoints SET secret = :sealed"), {"sealed": "gAAAA" * 40})
    with pytest.raises(RuntimeError, match="sealed"):
        alembic.command.downgrade(config, "0007")
    # The reference still stands.
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM webhook_endpoints"))
        assert connection.scalar(text("SELECT count(*) FROM webhook_deliveries")) == 0
    engine.dispose()


def test_a_migration_does_not_wait_long_behind_a_transaction_and_leaves_nothing_half(
    postgresql_server: PostgreSQL,
) -> None:
    url = postgresql_server.empty_database()
    alembic.command.upgrade(alembic_config(url), "0009")
    engine = open_engine(url)
    before = inspect(engine).get_columns("tenants")
    with engine.connect() as reader:
        # The second of the two tables that the next migration changes.
        reader.execute(text("SELECT * FROM leftovers"))
        command = [sys.executable, "-m", "jobs", "migrate"]
        environment = {**os.environ, "SGLP_DATABASE_URL": url}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("another transaction has held a table for 5 s; nothing was changed")
    assert [column["name"] for column in inspect(engine).get_columns("tenants")] == [each["name"] for each in before]
    engine.dispose()
    migrate(url)
    alembic.command.check(alembic_config(url))

"""Engines, sessions and migrations for PostgreSQL and SQLite."""

import importlib.util
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, TimeoutError
from sqlalchemy.orm import Session, sessionmaker
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random

from jobs.postgresql import AnswerTimeoutConnection
from jobs.settings import Settings

# Migrations change whole tables; what serves requests waits for `Settings.database_timeout_seconds`.
STATEMENT_SECONDS = 30.0
SQLITE_BUSY_SECONDS = 30.0
# Behind an even number of backslashes.
NUL_IN_JSON = re.compile(r"((?<!\\)(?:\\\\)*)\\u0000")
# What a database says that is down, fails over, or has more to do than connections for it.
DATABASE_DOWN = (OperationalError, InternalError, InterfaceError, TimeoutError)


def make_engine(settings: Settings) -> Engine:
    """An engine for the database of these settings."""
    return open_engine(settings.database_url, settings.database_timeout_seconds)


def open_engine(url: str, statement_seconds: float = STATEMENT_SECONDS) -> Engine:
    """An engine for the database at this URL. On PostgreSQL a statement that takes longer than `statement_seconds`
    fails: better a clear error than a request that hangs.
    """
    if url.startswith("postgresql"):
        engine = create_engine(
            url,
            json_serializer=storable_json,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_timeout=statement_seconds,
        )
        event.listen(
            engine,
            "do_connect",
            lambda _dialect, _record, arguments, parameters: AnswerTimeoutConnection.open(
                statement_seconds, *arguments, **parameters
            ),
        )
        return engine
    engine = create_engine(
        url, json_serializer=storable_json, hide_parameters=True, connect_args={"timeout": SQLITE_BUSY_SECONDS}
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def storable_json(value: Any) -> str:
    """JSON as both databases take it: NUL and half a surrogate pair, which are no text to them, become U+FFFD and `?`.

    A model may have any name in its files, and saying so must not keep its job from ending.

    Raises `ValueError` for NaN, which is no JSON.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    return NUL_IN_JSON.sub(r"\1\\ufffd", text).encode(errors="replace").decode()


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin transactions late and on its own; see `_begin_immediate`.
    connection.isolation_level = None
    _write_ahead(connection)
    for pragma in ("foreign_keys = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


@retry(
    retry=retry_if_exception_type(sqlite3.OperationalError),
    stop=stop_after_delay(SQLITE_BUSY_SECONDS),
    wait=wait_random(0.01, 0.1),
    reraise=True,
)
def _write_ahead(connection: Any) -> None:
    # The one statement that does not wait for the lock: several processes may meet at a new database.
    connection.execute("PRAGMA journal_mode = WAL")


def _begin_immediate(connection: Any) -> None:
    """Take the write lock at once: a transaction that reads first and writes later could fail in between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after the transaction."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def transaction(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """One transaction: committed at the end of the block, rolled back by any exception."""
    with sessions.begin() as session:
        yield session


def alembic_config(url: str) -> Config:
    """Alembic's configuration for this database, wherever the package is installed."""
    # Found, not imported: migrations know the tables, the tables do not know the migrations.
    spec = importlib.util.find_spec("migrations")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package `migrations` is not installed")
    config = Config()
    config.set_main_option("script_location", str(Path(spec.origin).parent).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def migrate(url: str) -> None:
    """Bring the schema up to date; safe to run from several processes at once."""
    alembic.command.upgrade(alembic_config(url), "head")

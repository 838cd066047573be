"""The API as its own process over PostgreSQL, as it is served, for requests that mean harm."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.wire import Answer, exchange
from tests.services.postgresql import PostgreSQL
from tests.services.processes import free_port, server_process


@dataclass(frozen=True)
class Server:
    """A running API and what it has logged."""

    port: int
    pid: int
    log: Path

    def ask(self, request: bytes, **options: Any) -> Answer:
        """The answer to the bytes of one request, over a connection of its own."""
        return exchange(self.port, request, **options)

    def lines(self) -> list[dict[str, Any]]:
        """The log; fails where a line is no event of its own."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def serving(database_url: str, directory: Path, **settings: Any) -> Iterator[Server]:
    """The API's process; at the end it must not have met anything that it did not foresee."""
    port, log = free_port(), directory / "api.log"
    given = {
        "database_url": database_url,
        "artifact_url": (directory / "artifacts").as_uri(),
        "port": port,
        "requests_per_minute": 10_000_000,
        **settings,
    }
    environment = {
        f"SGLP_{key.upper()}": value if isinstance(value, str) else json.dumps(value) for key, value in given.items()
    }
    with server_process([sys.executable, "-m", "api"], port, log, {**os.environ, **environment}) as process:
        server = Server(port, process.pid, log)
        yield server
        assert [line for line in server.lines() if line["level"] in {"error", "critical"}] == []
        assert process.poll() is None


@pytest.fixture(scope="module")
def server(postgresql_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        postgresql_server.database(),
        tmp_path_factory.mktemp("hostile"),
        model_roots=["/models"],
        sources={"https://models.example.org/public": {}},
    ) as running:
        yield running

"""Servers, databases and disks that tests ask for by name; a server is started once, when the first test asks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import make_engine, make_sessions, migrate
from jobs.settings import Settings
from sglp_core.fresh_process import FreshProcesses, shared_server
from tests.services.disks import mounted
from tests.services.postgresql import PostgreSQL, postgresql
from tests.services.redis import redis
from tests.services.s3 import S3, s3


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    # Where root runs the tests the server is another user, and the next run of tests on this machine would lock that
    # user out of pytest's own folder.
    with tempfile.TemporaryDirectory(prefix="sglp-tests-") as folder, postgresql(Path(folder) / "data") as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def libraries() -> Iterator[None]:
    """Imported once for all tests that have a written model read in a separate process."""
    with shared_server():
        yield


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshProcesses]:
    """Processes for one call each."""
    with FreshProcesses(tmp_path_factory.mktemp("fresh")) as processes:
        yield processes


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    return server.empty_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database of either kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'test.db'}"
        migrate(url)
        return url
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    return server.database()


@pytest.fixture
def sessions(database_url: str) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(Settings(database_url=database_url))
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with mounted(tmp_path / "small", "64k") as disk:
        yield disk

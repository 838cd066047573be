"""A database whose disk is full takes no job, and says so."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from jobs.database import migrate
from jobs.settings import Settings
from tests.api.conftest import SPEC
from tests.services.disks import mounted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with mounted(tmp_path / "disk", "4m") as full_soon:
        yield full_soon


@pytest.fixture
def settings(disk: Path, tmp_path: Path) -> Settings:
    url = f"sqlite:///{disk / 'test.db'}"
    migrate(url)
    return Settings(database_url=url, artifact_url=(tmp_path / "artifacts").as_uri())


def test_it_is_not_ready_until_there_is_room_again(client: httpx.Client, disk: Path) -> None:
    assert client.get("/readyz").status_code == 200
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))
    # What is written first goes into the room that the log of the database has already.
    while client.post("/v1/jobs", json=SPEC).status_code == 202:
        pass
    assert client.post("/v1/jobs", json=SPEC).status_code == 503
    assert client.get("/readyz").status_code == 503
    assert client.get("/v1/jobs").status_code == 200
    filler.unlink()
    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/jobs", json=SPEC).status_code == 202

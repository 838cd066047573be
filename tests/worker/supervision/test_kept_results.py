"""States of healings in the store: the newest whole one is found, whatever happened while it was stored."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore, StorageUnavailable, open_place
from jobs.database import make_engine, make_sessions
from jobs.repository import Claim
from jobs.settings import Settings
from jobs.spec import JobSpec, ModelSource
from tests.services.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.services.s3 import S3
from worker.supervision import kept_results
from worker.supervision.kept_results import RECEIVED, KeptFetch, KeptUploads
from worker.supervision.lease import Lease
from worker.workspace import JobFolders

JOB = "job_1"
NAME = "a" * 64 + ".npz"
FILE = f"healings/{NAME}"
SECONDS = 60


@pytest.fixture
def proxy(s3_server: S3) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server.port) as running:
        yield running


@pytest.fixture
def store(s3_server: S3, proxy: FaultyProxy, tmp_path: Path) -> ArtifactStore:
    return open_place(f"{s3_server.url}/{tmp_path.name}", s3_server.through(proxy.port).options, timeout_seconds=1)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "PAUSES_PER_UPLOAD", 0)


def uploads(
    store: ArtifactStore, directory: Path, fence: int, lease_seconds: float = SECONDS, cache: Path | None = None
) -> KeptUploads:
    """Those of the attempt with this fence; the database behind its lease is never asked."""
    claim = Claim(JOB, "tenant", fence, fence, JobSpec(mode="analyze", model=ModelSource(uri="hf://a/b")), 3600, {})
    directory.mkdir(exist_ok=True)
    sessions = make_sessions(make_engine(Settings(database_url="sqlite://")))
    folders = JobFolders(directory, directory, cache or directory.parent)
    return KeptUploads(store, Lease(sessions, claim, lease_seconds), folders)


def keep(cache: Path, content: bytes) -> str:
    """A state as the cache keeps it: a new file takes the place of the one before."""
    (cache / "healings").mkdir(exist_ok=True)
    (cache / "new").write_bytes(content)
    (cache / "new").replace(cache / FILE)
    return FILE


def stored(attempt: KeptUploads, file: str) -> None:
    """Offer the file and wait for the end of its upload, successful or not."""
    attempt.offer(file)
    advance_until_idle(attempt)


def advance_until_idle(attempt: KeptUploads) -> None:
    give_up = time.monotonic() + SECONDS
    attempt.advance()
    while attempt.is_uploading:
        assert time.monotonic() < give_up
        time.sleep(0.01)
        attempt.advance()


def fetched(store: ArtifactStore, directory: Path) -> bytes | None:
    """What a new attempt gets."""
    directory.mkdir()
    fetch = KeptFetch(store, JOB, directory, retry_seconds=5)
    fetch.start()
    fetch.join(SECONDS)
    if not fetch.result():
        return None
    assert fetch.done_bytes == fetch.total_bytes == (directory / RECEIVED / NAME).stat().st_size
    return (directory / RECEIVED / NAME).read_bytes()


def keys(store: ArtifactStore) -> list[str]:
    return store.list(f"jobs/{JOB}/")


def test_a_newer_state_replaces_an_older_one_of_this_attempt_and_of_earlier_ones(
    store: ArtifactStore, tmp_path: Path
) -> None:
    assert fetched(store, tmp_path / "before") is None
    first, second = uploads(store, tmp_path / "one", 9), uploads(store, tmp_path / "two", 10)
    for number, attempt in enumerate((first, first, second, second)):
        stored(attempt, keep(tmp_path, b"%d" % number))
        assert len(keys(store)) == 1
        assert fetched(store, tmp_path / f"after {number}") == b"%d" % number
    assert [path for folder in ("one", "two") for path in (tmp_path / folder).iterdir()] == []


def test_a_worker_that_was_frozen_does_not_replace_the_state_of_the_next(store: ArtifactStore, tmp_path: Path) -> None:
    frozen = uploads(store, tmp_path / "one", 1)
    stored(uploads(store, tmp_path / "two", 2), keep(tmp_path, b"newer"))
    stored(frozen, keep(tmp_path, b"older"))
    assert fetched(store, tmp_path / "after") == b"newer"


def test_what_is_stored_after_the_lease_was_lost_is_deleted_again(store: ArtifactStore, tmp_path: Path) -> None:
    stored(uploads(store, tmp_path / "one", 1), keep(tmp_path, b"older"))
    stored(uploads(store, tmp_path / "two", 2, lease_seconds=0), keep(tmp_path, b"newer"))
    assert fetched(store, tmp_path / "after") == b"older"
    assert len(keys(store)) == 1


def test_what_is_still_being_stored_when_the_job_ends_is_deleted_again(
    store: ArtifactStore, tmp_path: Path, proxy: FaultyProxy
) -> None:
    attempt = uploads(store, tmp_path / "one", 1)
    # Tried again by the store's client after a pause, in which the job ends.
    proxy.do(Fault.BUSY, methods={"PUT"}, times=1)
    attempt.offer(keep(tmp_path, b"state"))
    attempt.advance()
    attempt.stop()
    advance_until_idle(attempt)
    assert keys(store) == []


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET, Fault.HUNG])
def test_an_upload_that_fails_leaves_the_older_state_and_the_next_one_is_stored(
    store: ArtifactStore, tmp_path: Path, proxy: FaultyProxy, fault: Fault
) -> None:
    attempt = uploads(store, tmp_path / "one", 1)
    stored(attempt, keep(tmp_path, b"older"))
    proxy.do(fault, methods={"PUT"})
    stored(attempt, keep(tmp_path, b"lost"))
    proxy.heal()
    assert proxy.broken > 1
    assert fetched(store, tmp_path / "between") == b"older"
    stored(attempt, keep(tmp_path, b"newer"))
    assert fetched(store, tmp_path / "after") == b"newer"


def test_a_state_that_is_replaced_during_its_upload_is_stored_whole(
    store: ArtifactStore, tmp_path: Path, proxy: FaultyProxy
) -> None:
    attempt = uploads(store, tmp_path / "one", 1)
    proxy.do(Fault.BUSY, methods={"PUT"}, times=1)
    attempt.offer(keep(tmp_path, b"older"))
    attempt.advance()
    while not proxy.broken:
        time.sleep(0.01)
    keep(tmp_path, b"newer")
    advance_until_idle(attempt)
    assert fetched(store, tmp_path / "after") == b"older"


def test_a_cache_on_another_disk_is_copied(store: ArtifactStore, tmp_path: Path, small_disk: Path) -> None:
    stored(uploads(store, tmp_path / "one", 1, cache=small_disk), keep(small_disk, b"state"))
    assert fetched(store, tmp_path / "after") == b"state"


def test_a_state_that_is_gone_or_does_not_fit_is_passed_over(
    store: ArtifactStore, tmp_path: Path, small_disk: Path
) -> None:
    attempt = uploads(store, small_disk, 1, cache=tmp_path)
    stored(attempt, FILE)
    stored(attempt, keep(tmp_path, bytes(1 << 20)))
    assert list(small_disk.iterdir()) == []
    stored(attempt, keep(tmp_path, b"state"))
    assert fetched(store, tmp_path / "after") == b"state"


def test_a_state_that_a_new_worker_has_no_room_for_leaves_it_the_room_there_is(
    store: ArtifactStore, tmp_path: Path, small_disk: Path
) -> None:
    stored(uploads(store, tmp_path / "one", 1), keep(tmp_path, bytes(1 << 20)))
    with pytest.raises(OSError, match="space"):
        fetched(store, small_disk / "after")
    assert list((small_disk / "after" / RECEIVED).iterdir()) == []


@pytest.mark.parametrize(("fault", "times"), [(Fault.CORRUPTED, 1), (Fault.SHORTENED, 1), (Fault.BUSY, 8)])
def test_what_was_only_damaged_on_its_way_is_fetched_again(
    store: ArtifactStore, tmp_path: Path, proxy: FaultyProxy, fault: Fault, times: int
) -> None:
    stored(uploads(store, tmp_path / "one", 1), keep(tmp_path, b"state"))
    # The first request lists what there is.
    proxy.do(fault, methods={"GET"}, times=times, after=1)
    assert fetched(store, tmp_path / "after") == b"state"
    assert proxy.broken == times


def test_of_a_damaged_state_the_one_before_is_fetched(store: ArtifactStore, tmp_path: Path, proxy: FaultyProxy) -> None:
    attempt = uploads(store, tmp_path / "one", 1)
    stored(attempt, keep(tmp_path, b"older"))
    # So both are there, as after a kill between the two requests.
    proxy.do(Fault.BUSY, methods={"DELETE"})
    stored(attempt, keep(tmp_path, b"newer"))
    proxy.heal()
    assert len(keys(store)) == 2
    assert fetched(store, tmp_path / "before") == b"newer"
    (newest,) = (key for key in keys(store) if "/kept/1/2/" in key)
    (tmp_path / "damaged").write_bytes(b"Newer")
    store.put(newest, tmp_path / "damaged", "application/octet-stream")
    assert fetched(store, tmp_path / "after") == b"older"


def test_a_store_that_cannot_be_reached_is_told(store: ArtifactStore, tmp_path: Path, proxy: FaultyProxy) -> None:
    proxy.do(Fault.BUSY)
    with pytest.raises(StorageUnavailable):
        fetched(store, tmp_path / "after")


def test_uploads_take_a_small_share_of_the_time(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_results, "PAUSES_PER_UPLOAD", 1_000_000)
    attempt = uploads(store, tmp_path / "one", 1)
    stored(attempt, keep(tmp_path, b"first"))
    stored(attempt, keep(tmp_path, b"second"))
    assert fetched(store, tmp_path / "after") == b"first"


@pytest.mark.parametrize("entry", ["link", "folder link", "pipe"])
def test_what_is_no_plain_file_of_the_cache_is_not_stored(store: ArtifactStore, tmp_path: Path, entry: str) -> None:
    (tmp_path / "secret" / "healings").mkdir(parents=True)
    (tmp_path / "secret" / FILE).write_bytes(b"secret")
    cache = tmp_path / "cache"
    cache.mkdir()
    if entry == "folder link":
        (cache / "healings").symlink_to(tmp_path / "secret" / "healings")
    else:
        (cache / "healings").mkdir()
        (cache / FILE).symlink_to(tmp_path / "secret" / FILE) if entry == "link" else os.mkfifo(cache / FILE)
    stored(uploads(store, tmp_path / "one", 1, cache=cache), FILE)
    assert keys(store) == []
    assert list((tmp_path / "one").iterdir()) == []

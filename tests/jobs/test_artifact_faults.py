"""The artifact store over a connection that fails: what was asked for comes whole, or an error does, and in time."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore, StorageUnavailable, checked, open_place
from tests.services.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.services.s3 import S3

# More than one part of a multipart upload, and more than the buffers of a connection hold.
LARGE = random.Random(0).randbytes(1 << 20) * 20
KEY = "jobs/job_a/1/model/model.safetensors"
SILENCE_SECONDS = 1.0
# More often than a request is tried.
ALWAYS = 1000


@pytest.fixture(scope="module")
def proxy(s3_server: S3) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server.port) as running:
        yield running


@pytest.fixture
def store(s3_server: S3, proxy: FaultyProxy, tmp_path: Path) -> Iterator[ArtifactStore]:
    options = s3_server.through(proxy.port).options
    yield open_place(f"{s3_server.url}/{tmp_path.name}", options, timeout_seconds=SILENCE_SECONDS)
    proxy.heal()


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    file.write_bytes(LARGE)
    return file


def collect(chunks: Iterator[bytes], received: list[bytes]) -> None:
    for chunk in chunks:
        received.append(chunk)


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET, Fault.CUT, Fault.HUNG])
def test_what_fails_once_or_twice_is_not_noticed(
    store: ArtifactStore, large_file: Path, proxy: FaultyProxy, fault: Fault
) -> None:
    proxy.do(fault, methods={"PUT"}, times=2)
    store.put(KEY, large_file, "text/plain")
    proxy.do(fault, methods={"GET"}, times=2)
    assert b"".join(store.stream(KEY)) == LARGE
    assert proxy.broken == 2


@pytest.mark.parametrize("fault", Fault)
def test_what_goes_on_failing_is_an_error_without_addresses(
    store: ArtifactStore, large_file: Path, proxy: FaultyProxy, fault: Fault
) -> None:
    proxy.do(fault, methods={"GET"}, times=ALWAYS)
    started = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        store.put(KEY, large_file, "text/plain")
    assert "127.0.0.1" not in str(caught.value)
    assert time.monotonic() - started < 30 * SILENCE_SECONDS


@pytest.mark.parametrize("fault", [Fault.SHORTENED, Fault.CORRUPTED])
def test_what_comes_back_damaged_is_held_back_at_its_end(
    store: ArtifactStore, large_file: Path, proxy: FaultyProxy, fault: Fault
) -> None:
    _, sha256 = store.put(KEY, large_file, "text/plain")
    proxy.do(fault, methods={"GET"}, times=1)
    received: list[bytes] = []
    with pytest.raises(StorageUnavailable, match="another content"):
        collect(checked(store.stream(KEY), KEY, sha256), received)
    assert 0 < sum(map(len, received)) < len(LARGE)
    assert b"".join(checked(store.stream(KEY), KEY, sha256)) == LARGE


def test_a_file_may_take_longer_than_the_store_may_be_silent(store: ArtifactStore, large_file: Path) -> None:
    store.put(KEY, large_file, "text/plain")
    started, received = time.monotonic(), bytearray()
    for chunk in store.stream(KEY):
        received += chunk
        # As a client on a slow line would.
        time.sleep(SILENCE_SECONDS / 10)
    assert received == LARGE
    assert time.monotonic() - started > 1.5 * SILENCE_SECONDS

"""The cache of downloads: one copy for all, bounded, and whole whoever is killed in the middle."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.web import Handler, Web, web
from worker.sources.download_cache import DownloadCache
from worker.sources.remote_folder import RemoteFile, SourceError

WEIGHTS = os.urandom(1 << 20)
PROGRAM = """
import sys
from pathlib import Path
from worker.sources.access import DownloadLimits, SourceAccess
from worker.sources.model_files import Sources

url, folder, cache = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
folder.mkdir()
limits = DownloadLimits(max_bytes=1 << 24, max_files=50, seconds=30, cache_bytes=1 << 24)
access = SourceAccess({url: {}}, [url], ["127.0.0.0/8", "::1/128"])
sources = Sources(folder, cache, limits, access, lambda *_: None)
print(sources.model(f"{url}/tiny"))
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with web(tmp_path) as running:
        running.files = {"/tiny/config.json": b"{}", "/tiny/model.safetensors": WEIGHTS}
        monkeypatch.setenv("SSL_CERT_FILE", str(running.certificate))
        yield running


class Pause:
    """Serves the first half of a file, and the second once it may."""

    def __init__(self) -> None:
        self.half_sent, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, handler: Handler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").partition("-")[0])
        total, half = len(handler.content), len(handler.content) // 2
        handler.head(206, total - start, **{"Content-Range": f"bytes {start}-{total - 1}/{total}"})
        if start < half:
            handler.send(handler.content[start:half])
            self.half_sent.set()
            self.may_go_on.wait(20)
        handler.send(handler.content[max(start, half) :])


def start(server: Web, tmp_path: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, server.url, str(tmp_path / name), str(tmp_path / "cache")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def weights_of(process: subprocess.Popen[str]) -> bytes:
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    return (Path(out.strip()) / "model.safetensors").read_bytes()


def test_two_at_once_download_one_copy(server: Web, tmp_path: Path) -> None:
    pause = server.instead["/tiny/model.safetensors"] = Pause()
    first = start(server, tmp_path, "first")
    assert pause.half_sent.wait(20)
    second = start(server, tmp_path, "second")
    while len([path for _, path, _ in server.requests if path == "/tiny/model.safetensors"]) < 3:
        assert second.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.5)
    pause.may_go_on.set()
    assert weights_of(first) == weights_of(second) == WEIGHTS
    assert server.served == len(WEIGHTS) + len(b"{}")


@pytest.mark.parametrize("who", ["the next job", "a job that waits"])
def test_a_download_whose_worker_is_killed_goes_on(who: str, server: Web, tmp_path: Path) -> None:
    pause = server.instead["/tiny/model.safetensors"] = Pause()
    killed = start(server, tmp_path, "killed")
    assert pause.half_sent.wait(20)
    part = next((tmp_path / "cache").glob("*.part"))
    while part.stat().st_size < len(WEIGHTS) // 2:
        assert killed.poll() is None
    waiting = start(server, tmp_path, "waiting") if who == "a job that waits" else None
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert weights_of(waiting or start(server, tmp_path, "next")) == WEIGHTS
    # What was killed has asked for the whole, so the server goes on sending to nobody.
    assert server.served - len(b"{}") == len(WEIGHTS)
    pause.may_go_on.set()


def file_of(name: str, size_bytes: int) -> RemoteFile:
    return RemoteFile(name, f"s3://bucket/{name}", size_bytes, "etag", None)


def use(cache: DownloadCache, folder: Path, name: str, size_bytes: int = 100) -> bool:
    """Link a file into a job's folder; says whether it had to be downloaded."""
    asked: list[int] = []

    def read(start: int) -> Iterator[bytes]:
        asked.append(start)
        yield bytes(size_bytes - start)

    folder.mkdir(exist_ok=True)
    cache.link(file_of(name, size_bytes), folder / name, read, lambda: None)
    return bool(asked)


def end(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def stored_bytes(cache: DownloadCache) -> int:
    return sum(file.stat().st_size for file in cache.folder.iterdir())


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache, job = DownloadCache(tmp_path / "cache", 350), tmp_path / "job"
    for name in ("a", "b", "c"):
        assert use(cache, job, name)
    end(job)
    assert not use(cache, job, "a")
    end(job)
    assert use(cache, job, "d")
    assert stored_bytes(cache) == 300
    end(job)
    assert not use(cache, job, "a")
    assert not use(cache, job, "c")
    assert use(cache, job, "b")


def test_what_a_job_uses_stays_and_counts(tmp_path: Path) -> None:
    cache, job, other = DownloadCache(tmp_path / "cache", 250), tmp_path / "job", tmp_path / "other"
    use(cache, job, "a")
    use(cache, job, "b")
    with pytest.raises(SourceError, match="SGLP_SOURCE_CACHE_BYTES") as refused:
        use(cache, other, "c")
    assert refused.value.code == "insufficient_storage"
    assert stored_bytes(cache) == 200
    assert (job / "a").read_bytes() == bytes(100)
    (job / "b").unlink()
    assert use(cache, other, "c")
    assert not use(cache, other, "a")


def test_a_download_that_goes_on_has_its_room(tmp_path: Path) -> None:
    cache, job = DownloadCache(tmp_path / "cache", 250), tmp_path / "job"
    job.mkdir()

    def read(start: int) -> Iterator[bytes]:
        yield bytes(10)
        with pytest.raises(SourceError):
            use(cache, tmp_path / "other", "b")
        yield bytes(190)

    cache.link(file_of("a", 200), job / "a", read, lambda: None)
    assert stored_bytes(cache) == 200


def test_what_was_left_unfinished_makes_room_too(tmp_path: Path) -> None:
    cache, job = DownloadCache(tmp_path / "cache", 250), tmp_path / "job"
    job.mkdir()

    def read(start: int) -> Iterator[bytes]:
        yield bytes(10)
        raise SourceError("source_unreachable", "broken")

    with pytest.raises(SourceError, match="broken"):
        cache.link(file_of("a", 200), job / "a", read, lambda: None)
    assert use(cache, job, "b")
    assert stored_bytes(cache) == 100


def test_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path / "cache", 1 << 62)
    with pytest.raises(SourceError) as refused:
        use(cache, tmp_path / "job", "a", 1 << 60)
    assert refused.value.code == "insufficient_storage"


def test_files_of_which_nothing_is_known_are_never_taken_for_one_another(tmp_path: Path) -> None:
    cache, job = DownloadCache(tmp_path / "cache", 1000), tmp_path / "job"
    job.mkdir()
    file = RemoteFile("a", "s3://bucket/a", 3, None, None)
    for name, content in (("one", b"one"), ("two", b"two")):
        cache.link(file, job / name, lambda _start, content=content: iter([content]), lambda: None)
        assert (job / name).read_bytes() == content

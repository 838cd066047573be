"""A push to a bucket and to a folder: complete with its manifest, repeatable, and never outside."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore, StorageUnavailable, open_place
from jobs.locations.destinations import Destination
from jobs.repository import PublishedArtifact
from tests.services.s3 import S3
from worker.results.push import Push, PushForbidden

FILES = {"model/config.json": b"{}", "model/model.safetensors": bytes(range(256)) * 10, "report.json": b"[]"}


def make_output(folder: Path) -> Path:
    """What a job has made."""
    for name, content in {**FILES, "manifest.json": json.dumps(sorted(FILES)).encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return make_output(tmp_path / "output")


@pytest.fixture(params=["folder", "s3"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    if request.param == "folder":
        (tmp_path / "results").mkdir()
        return Destination(prefix=(tmp_path / "results").as_uri())
    server: S3 = request.getfixturevalue("s3_server")
    return Destination(prefix=f"{server.url}/results/{tmp_path.name}", options=server.options)


def published(output: Path) -> list[PublishedArtifact]:
    artifacts = []
    for file in sorted(path for path in output.rglob("*") if path.is_file()):
        name, content = file.relative_to(output).as_posix(), file.read_bytes()
        artifacts.append(
            PublishedArtifact(name, "text/plain", len(content), hashlib.sha256(content).hexdigest(), "key")
        )
    return artifacts


def pushed(uri: str, destination: Destination, output: Path, retry_seconds: float = 60) -> Push:
    push = Push(uri, destination, output, published(output), retry_seconds)
    push.start()
    push.join(60)
    return push


def content_of(store: ArtifactStore) -> dict[str, bytes]:
    return {key: b"".join(store.stream(key)) for key in store.list("")}


def test_everything_arrives_and_is_told(destination: Destination, output: Path) -> None:
    uri = f"{destination.prefix}/small/"
    push = pushed(uri, destination, output)
    result = push.result()
    assert (result.uri, result.manifest) == (uri[:-1], "manifest.json")
    contents = content_of(open_place(uri, destination.options))
    assert {name: contents[name] for name in FILES} == FILES
    pushed_files = {file.name: (file.size_bytes, file.sha256) for file in result.files}
    assert pushed_files == {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()}
    assert push.done_bytes == push.total_bytes == sum(map(len, contents.values()))


def test_a_second_attempt_overwrites_what_the_first_left_and_nothing_else(
    destination: Destination, output: Path, tmp_path: Path
) -> None:
    uri = f"{destination.prefix}/small"
    pushed(uri, destination, output).result()
    (tmp_path / "other").write_bytes(b"mine")
    open_place(destination.prefix, destination.options).put("beside/other", tmp_path / "other", "text/plain")
    (output / "report.json").write_bytes(b"[1]")
    pushed(uri, destination, output).result()
    contents = content_of(open_place(destination.prefix, destination.options))
    assert contents["small/report.json"] == b"[1]"
    assert contents["beside/other"] == b"mine"
    assert len(contents) == len(FILES) + 2


def test_the_manifest_is_there_only_while_all_is(
    destination: Destination, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{destination.prefix}/small"
    pushed(uri, destination, output).result()
    store = open_place(uri, destination.options)
    seen: list[tuple[str, bool]] = []
    put = ArtifactStore.put

    def watched(self: ArtifactStore, key: str, file: Path, media_type: str) -> tuple[int, str]:
        seen.append((key, "manifest.json" in store.list("")))
        return put(self, key, file, media_type)

    monkeypatch.setattr(ArtifactStore, "put", watched)
    pushed(uri, destination, output).result()
    assert {there for _, there in seen} == {False}
    assert seen[-1][0] == "manifest.json"
    assert "manifest.json" in store.list("")


def failing(times: int) -> Callable[..., tuple[int, str]]:
    put, left = ArtifactStore.put, [times]

    def fails(self: ArtifactStore, key: str, file: Path, media_type: str) -> tuple[int, str]:
        if left[0]:
            left[0] -= 1
            raise StorageUnavailable("the store failed")
        return put(self, key, file, media_type)

    return fails


@pytest.mark.parametrize(("times", "arrives"), [(2, True), (1 << 30, False)])
def test_a_store_that_fails_is_asked_again_but_not_for_ever(
    destination: Destination, output: Path, monkeypatch: pytest.MonkeyPatch, times: int, arrives: bool
) -> None:
    monkeypatch.setattr(ArtifactStore, "put", failing(times))
    push = pushed(destination.prefix, destination, output, retry_seconds=60 if arrives else 0.2)
    if arrives:
        assert len(push.result().files) == len(FILES) + 1
        return
    with pytest.raises(StorageUnavailable):
        push.result()
    assert "manifest.json" not in open_place(destination.prefix, destination.options).list("")


def test_what_is_told_to_stop_writes_nothing_more(destination: Destination, output: Path) -> None:
    push = Push(destination.prefix, destination, output, published(output), 60)
    push.stopping.set()
    push.start()
    push.join(60)
    assert open_place(destination.prefix, destination.options).list("") == []


def test_a_wrong_secret_is_forbidden_and_not_told(s3_server: S3, output: Path) -> None:
    options = s3_server.options | {"secret_access_key": "canary-secret"}
    destination = Destination(prefix=f"{s3_server.url}/elsewhere", options=options)
    with pytest.raises(PushForbidden) as caught:
        pushed(destination.prefix, destination, output).result()
    assert "canary" not in str(caught.value)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, output: Path) -> None:
    for name in ("results", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "results" / "link").symlink_to(tmp_path / "outside")
    destination = Destination(prefix=(tmp_path / "results").as_uri())
    with pytest.raises(PushForbidden, match="leads out"):
        pushed(f"{destination.prefix}/link/deeper", destination, output).result()
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, output: Path) -> None:
    destination = Destination(prefix=(tmp_path / "unmounted").as_uri())
    with pytest.raises(PushForbidden, match="no folder"):
        pushed(f"{destination.prefix}/a", destination, output).result()
    assert not (tmp_path / "unmounted").exists()

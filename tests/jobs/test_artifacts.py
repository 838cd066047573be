"""The artifact store over a folder and over an S3 server that checks signatures."""

import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import obstore
import pytest

from jobs.artifacts import ArtifactStore, InsufficientStorage, StorageUnavailable, open_store
from jobs.settings import Settings
from tests.services.s3 import S3

# More than two parts of a multipart upload.
LARGE = random.Random(0).randbytes(1 << 20) * 20
KEY = "jobs/job_a/1/model/model.safetensors"


@pytest.fixture
def s3_settings(s3_server: S3, tmp_path: Path) -> Settings:
    return Settings(artifact_url=f"{s3_server.url}/{tmp_path.name}", artifact_options=s3_server.options)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return open_store(Settings(artifact_url=(tmp_path / "artifacts").as_uri()))
    return open_store(request.getfixturevalue("s3_settings"))


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    file.write_bytes(LARGE)
    return file


def test_what_was_put_comes_back(store: ArtifactStore, large_file: Path) -> None:
    digest = hashlib.sha256(LARGE).hexdigest()
    assert store.put(KEY, large_file, "application/octet-stream") == (len(LARGE), digest)
    assert b"".join(store.stream(KEY)) == LARGE


@pytest.mark.parametrize(("start", "end"), [(0, 1), (5, 100), (len(LARGE) - 3, len(LARGE)), (7, None)])
def test_a_part_comes_back(store: ArtifactStore, large_file: Path, start: int, end: int | None) -> None:
    store.put(KEY, large_file, "application/octet-stream")
    assert b"".join(store.stream(KEY, start, end)) == LARGE[start:end]


def test_an_empty_file_is_stored(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert store.put(KEY, tmp_path / "empty", "text/plain") == (0, hashlib.sha256().hexdigest())


def test_deleting_a_prefix_leaves_its_neighbours(store: ArtifactStore, large_file: Path) -> None:
    for key in ("jobs/a/1/x", "jobs/a/1/y/z", "jobs/a/10/x"):
        store.put(key, large_file, "text/plain")
    store.delete_prefix("jobs/a/1/")
    assert store.list("jobs/a/") == ["jobs/a/10/x"]


def test_what_is_not_there_is_an_error_without_addresses(store: ArtifactStore) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        next(store.stream("jobs/none"))
    assert str(caught.value) == "the artifact store failed on jobs/none: FileNotFoundError"


def test_a_folder_signs_nothing(tmp_path: Path) -> None:
    assert open_store(Settings(artifact_url=tmp_path.as_uri())).signed_url(KEY) is None


def test_a_signed_address_works_without_credentials_and_only_as_signed(s3_settings: Settings, large_file: Path) -> None:
    store = open_store(s3_settings)
    store.put(KEY, large_file, "application/octet-stream")
    url = store.signed_url(KEY)
    assert url is not None
    assert httpx.get(url).content == LARGE
    assert httpx.get(url.replace("Signature=", "Signature=0")).status_code == 403
    assert httpx.get(url.split("?")[0]).status_code == 403


def test_a_signed_address_expires(s3_settings: Settings, large_file: Path) -> None:
    store = open_store(s3_settings.model_copy(update={"presign_seconds": 1}))
    store.put(KEY, large_file, "application/octet-stream")
    url = store.signed_url(KEY)
    assert url is not None
    time.sleep(2)
    assert httpx.get(url).status_code == 403


def test_signing_can_be_turned_off(s3_settings: Settings) -> None:
    assert open_store(s3_settings.model_copy(update={"presign_seconds": 0})).signed_url(KEY) is None


def test_a_wrong_secret_is_refused_and_not_told(s3_settings: Settings, large_file: Path) -> None:
    options = s3_settings.artifact_options | {"secret_access_key": "canary-secret"}
    store = open_store(s3_settings.model_copy(update={"artifact_options": options}))
    with pytest.raises(StorageUnavailable) as caught:
        store.put(KEY, large_file, "application/octet-stream")
    assert "canary" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_a_store_that_does_not_answer_is_an_error(s3_settings: Settings) -> None:
    options = s3_settings.artifact_options | {"endpoint": "http://127.0.0.1:1"}
    with pytest.raises(StorageUnavailable):
        open_store(s3_settings.model_copy(update={"artifact_options": options})).list("jobs/")


def test_what_comes_back_changed_is_noticed_and_removed(
    store: ArtifactStore, large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ArtifactStore.stream

    def overwritten(self: ArtifactStore, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        obstore.put(self._store, key, LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
        return whole(self, key, start, end)

    # Something else writes to the object between its upload and the reading back.
    monkeypatch.setattr(ArtifactStore, "stream", overwritten)
    with pytest.raises(StorageUnavailable, match="another content"):
        store.put(KEY, large_file, "application/octet-stream")
    assert store.list("jobs/") == []


def test_a_full_disk_is_told_and_nothing_is_left(small_disk: Path, large_file: Path) -> None:
    store = open_store(Settings(artifact_url=small_disk.as_uri()))
    with pytest.raises(InsufficientStorage):
        store.put(KEY, large_file, "application/octet-stream")
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []

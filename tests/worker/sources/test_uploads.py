"""Uploads become files in the job's folder, exactly as they were declared, or not at all."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest

from jobs.artifacts import ArtifactStore, open_place, open_store
from jobs.repository import DeclaredFile, StoredUpload
from jobs.settings import Settings
from jobs.spec import CalibrationSpec, JobSpec, ModelSource
from sglp_core.checkpoints.converted_models import ConvertedModels
from tests.services.faulty_proxy import Fault, faulty_proxy
from tests.services.s3 import S3
from tests.worker.supervision.test_child_process import request
from worker.child.method import converted_models
from worker.sources.uploads import UploadDamaged, UploadFetch, as_named, made_local

CONTENT = bytes(range(256)) * 1000
URI = "upload://upload_" + "0" * 26


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(Settings(artifact_url=(tmp_path / "artifacts").as_uri()))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def declared(name: str, **changes: Any) -> DeclaredFile:
    right = {"name": name, "size_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    return DeclaredFile(**{**right, **changes})


def upload(
    store: ArtifactStore, tmp_path: Path, *files: DeclaredFile, kind: str = "dataset"
) -> dict[str, StoredUpload]:
    (tmp_path / "sent").write_bytes(CONTENT)
    for file in files:
        store.put(f"uploads/{URI[9:]}/{file.name}", tmp_path / "sent", "text/plain")
    return {URI: StoredUpload(URI[9:], "mine", kind, files)}


def fetched(store: ArtifactStore, uploads: dict[str, StoredUpload], workspace: Path) -> UploadFetch:
    fetch = UploadFetch(store, uploads, workspace, 60)
    fetch.start()
    fetch.join(60)
    return fetch


@pytest.mark.parametrize(
    ("names", "kind", "opened"),
    [
        (["text.txt"], "dataset", "mine/text.txt"),
        (["config.json", "model.safetensors"], "model", "mine"),
        (["small.GGUF"], "model", "mine/small.GGUF"),
        (["model.safetensors"], "model", "mine"),
    ],
)
def test_the_method_opens_a_file_or_a_folder(
    store: ArtifactStore, workspace: Path, tmp_path: Path, names: list[str], kind: str, opened: str
) -> None:
    fetch = fetched(store, upload(store, tmp_path, *map(declared, names), kind=kind), workspace)
    folder = f"uploads/{URI[9:]}"
    assert fetch.result() == {URI: f"{folder}/{opened}"}
    assert {path.name: path.read_bytes() for path in (workspace / folder / "mine").iterdir()} == dict.fromkeys(
        names, CONTENT
    )
    assert fetch.done_bytes == fetch.total_bytes == len(CONTENT) * len(names)


@pytest.mark.parametrize("lie", [{"size_bytes": len(CONTENT) - 1}, {"sha256": "0" * 64}])
def test_what_is_not_as_declared_is_not_given_to_the_job(
    store: ArtifactStore, workspace: Path, tmp_path: Path, lie: dict[str, Any]
) -> None:
    fetch = fetched(store, upload(store, tmp_path, declared("text.txt", **lie)), workspace)
    with pytest.raises(UploadDamaged, match="as it was uploaded") as caught:
        fetch.result()
    assert caught.value.uri == URI


def test_what_is_not_there_is_told(store: ArtifactStore, workspace: Path) -> None:
    missing = {URI: StoredUpload(URI[9:], "mine", "dataset", (declared("text.txt"),))}
    with pytest.raises(UploadDamaged):
        fetched(store, missing, workspace).result()


def test_what_was_stopped_makes_nothing_behind_the_job(store: ArtifactStore, workspace: Path, tmp_path: Path) -> None:
    fetch = UploadFetch(store, upload(store, tmp_path, declared("text.txt")), workspace, 60)
    fetch.stopping.set()
    fetch.start()
    fetch.join(60)
    assert list(workspace.iterdir()) == []


def test_a_full_disk_is_told(store: ArtifactStore, small_disk: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="space") as caught:
        fetched(store, upload(store, tmp_path, declared("text.txt")), small_disk).result()
    assert caught.value.errno == errno.ENOSPC


def test_what_is_converted_of_an_upload_goes_with_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "work" / "tmp"))
    spec = {"mode": "analyze", "model": {"uri": "uploads/b/mine.gguf"}, "calibration": {}}
    asked = request(spec, tmp_path)
    uploaded = asked.model_copy(update={"uploads": {URI: Path("uploads/b/mine.gguf")}})
    limit = asked.limits.cache_bytes
    assert converted_models(uploaded) == ConvertedModels(tmp_path / "work" / "tmp" / "converted", limit)
    assert converted_models(asked) == ConvertedModels(asked.cache / "converted", limit)
    other = asked.model_copy(update={"uploads": {URI: Path("uploads/b/text.txt")}})
    assert converted_models(other) == converted_models(asked)


def test_only_a_model_that_is_an_upload_changes_in_a_specification_and_messages_name_uploads(workspace: Path) -> None:
    own = "upload://upload_" + "1" * 26
    spec = JobSpec(mode="analyze", model=ModelSource(uri=own), calibration=CalibrationSpec(source=URI, samples=8))
    paths = {URI: "uploads/a/mine/text.txt", own: "uploads/b/mine"}
    expected = spec.model_dump()
    expected["model"]["uri"] = "uploads/b/mine"
    assert made_local(spec, paths).model_dump() == expected
    elsewhere = JobSpec(mode="analyze", model=ModelSource(uri="hf://org/name"))
    assert made_local(elsewhere, paths).model_dump() == elsewhere.model_dump()
    message = as_named(f"uploads/a/mine/text.txt is empty: {workspace}/uploads/a/mine/text.txt", paths, workspace)
    assert message == f"{URI} is empty: {URI}"


@pytest.mark.parametrize(("fault", "times"), [(Fault.CORRUPTED, 1), (Fault.SHORTENED, 1), (Fault.BUSY, 8)])
def test_what_was_only_damaged_on_its_way_is_copied_again(
    s3_server: S3, workspace: Path, tmp_path: Path, fault: Fault, times: int
) -> None:
    uploads = upload(open_place(f"{s3_server.url}/{tmp_path.name}", s3_server.options), tmp_path, declared("text.txt"))
    with faulty_proxy(s3_server.port) as proxy:
        store = open_place(f"{s3_server.url}/{tmp_path.name}", s3_server.through(proxy.port).options)
        proxy.do(fault, methods={"GET"}, times=times)
        fetch = fetched(store, uploads, workspace)
    fetch.result()
    assert (workspace / "uploads" / URI[9:] / "mine" / "text.txt").read_bytes() == CONTENT
    assert fetch.done_bytes == len(CONTENT)
    assert proxy.broken == times

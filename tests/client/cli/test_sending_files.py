"""`sglp upload` against the real API, over a store that cannot sign."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sglp_client import SGLP

from jobs.database import migrate
from jobs.settings import Settings
from tests.api.conftest import serving

SGLP_COMMAND = [sys.executable, "-c", "from sglp_client.cli.app import app; app()"]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url)
    with serving(Settings(database_url=url, artifact_url=(tmp_path / "artifacts").as_uri())) as client:
        yield client


def sglp(client: httpx.Client, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SGLP_URL": str(client.base_url)}
    return subprocess.run([*SGLP_COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_what_upload_prints_is_what_submit_takes(client: httpx.Client, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    (folder / "deeper").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", ".hidden", "deeper/x"):
        (folder / name).write_bytes(name.encode() * 1000)
    printed = sglp(client, "upload", folder)
    uri = printed.stdout.strip()
    assert (printed.returncode, printed.stderr) == (0, "")
    submitted = sglp(client, "submit", uri, "--remove-count", "2", "--protect", "-1,0")
    assert submitted.returncode == 0, submitted.stderr
    job = client.get(f"/v1/jobs/{submitted.stdout.strip()}").json()
    assert job["spec"]["model"]["uri"] == uri
    assert (job["spec"]["target"], job["spec"]["method"]["protected"]) == ({"kind": "layers", "count": 2}, [-1, 0])
    (upload,) = client.get("/v1/uploads").json()["data"]
    assert (upload["name"], upload["kind"], upload["status"]) == ("tiny", "model", "ready")
    assert [file["name"] for file in upload["files"]] == ["config.json", "model.safetensors"]


def test_data_is_recognised_by_its_files(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat")
    assert sglp(client, "upload", tmp_path / "text.txt").stdout.startswith("upload://upload_")
    assert client.get("/v1/uploads").json()["data"][0]["kind"] == "dataset"


def test_what_was_sent_is_listed_and_deleted(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat")
    uri = sglp(client, "upload", tmp_path / "text.txt").stdout.strip()
    upload_id = uri.removeprefix("upload://")
    assert upload_id in sglp(client, "uploads", "list").stdout
    assert sglp(client, "uploads", "delete", uri).stdout.strip() == "deleted"
    assert upload_id not in sglp(client, "uploads", "list").stdout
    again = sglp(client, "uploads", "delete", upload_id)
    assert (again.returncode, "there is no upload" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("files", "word"),
    [
        (["config.json", "pytorch_model.bin"], "holds no .safetensors or .gguf weights"),
        (["cats/1.png", "dogs/2.png"], "send a .zip"),
        (["script.py"], "data is one file of .jsonl, .parquet, .txt, .zip"),
    ],
)
def test_the_message_about_a_folder_that_is_neither_says_what_to_do(
    client: httpx.Client, tmp_path: Path, files: list[str], word: str
) -> None:
    for name in files:
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    refused = sglp(client, "upload", tmp_path / "folder")
    assert (refused.returncode, word in refused.stderr) == (1, True)
    assert client.get("/v1/uploads").json()["data"] == []


def test_what_cannot_be_sent_is_one_plain_message(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x")
    answers = [
        sglp(client, "upload", tmp_path / "empty"),
        sglp(client, "upload", tmp_path / "a.txt", tmp_path / "b.txt"),
    ]
    assert [answer.returncode for answer in answers] == [1, 1]
    assert "holds no files" in answers[0].stderr
    assert "a dataset is one file" in answers[1].stderr
    assert client.get("/v1/uploads").json()["data"] == []


def test_a_file_that_changes_on_its_way_leaves_no_upload(client: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"a" * (3 << 20))

    def change(_more: int) -> None:
        file.write_bytes(b"b" * (3 << 20))

    with SGLP(str(client.base_url)) as service, pytest.raises(Exception, match="sha256"):
        service.upload([file], kind="dataset", on_bytes=change)
    assert client.get("/v1/uploads").json()["data"] == []

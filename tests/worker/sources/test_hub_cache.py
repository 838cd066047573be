"""The hub client's cache is cut back, but a job keeps what it uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.hub import COMMIT, hub
from tests.worker.supervision.test_child_process import folder, follow, request
from tests.worker.tiny_model import tiny_spec, write_tiny_model
from worker.sources.hub_cache import hold, make_room
from worker.sources.remote_folder import SourceError
from worker.supervision.child_process import ChildProcess

# The hub's client reads HF_ENDPOINT once, when it is imported, so it runs in a separate process.
PROGRAM = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("org/" + sys.argv[1], cache_dir=sys.argv[2]))
"""


@pytest.fixture
def snapshots(tmp_path: Path) -> list[Path]:
    """What the client made of three models of 1000 bytes each, the first downloaded first."""
    with hub() as server:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
        }
        made = []
        for number, name in enumerate("abc"):
            (offered := tmp_path / "offered" / name).mkdir(parents=True)
            (offered / "weights").write_bytes(bytes([number]) * 1000)
            server.models[f"org/{name}"] = offered
            command = [sys.executable, "-c", PROGRAM, name, str(tmp_path / "hub")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            made.append(Path(done.stdout.strip()))
    return made


def kept(snapshots: list[Path]) -> list[bool]:
    return [(snapshot / "weights").exists() for snapshot in snapshots]


def test_the_longest_unused_goes_first_and_nothing_in_use(snapshots: list[Path], tmp_path: Path) -> None:
    hub_folder = tmp_path / "hub"
    make_room(hub_folder, 3000)
    assert kept(snapshots) == [True, True, True]
    hold(lambda: snapshots[1], tmp_path / "ended")
    (tmp_path / "ended" / "weights").unlink()
    make_room(hub_folder, 2000)
    assert kept(snapshots) == [False, True, True]
    hold(lambda: snapshots[2], tmp_path / "running")
    make_room(hub_folder, 1000)
    assert kept(snapshots) == [False, False, True]
    make_room(hub_folder, 0)
    assert (tmp_path / "running" / "weights").read_bytes() == bytes([2]) * 1000
    assert kept(snapshots) == [False, False, True]


def test_folders_inside_come_along(snapshots: list[Path], tmp_path: Path) -> None:
    (snapshots[0] / "templates").mkdir()
    (snapshots[0] / "templates" / "tool.json").write_text("{}")
    hold(lambda: snapshots[0], tmp_path / "job")
    assert (tmp_path / "job" / "templates" / "tool.json").read_text() == "{}"
    assert (tmp_path / "job" / "weights").is_file()


def test_what_went_before_it_was_linked_is_downloaded_again(snapshots: list[Path], tmp_path: Path) -> None:
    make_room(tmp_path / "hub", 0)
    downloads: list[int] = []

    def download() -> Path:
        downloads.append(len(downloads))
        if len(downloads) == 2:
            (snapshots[0] / "weights").resolve().write_bytes(b"again")
        return snapshots[0]

    hold(download, tmp_path / "job")
    assert (len(downloads), (tmp_path / "job" / "weights").read_bytes()) == (2, b"again")
    make_room(tmp_path / "hub", 0)
    with pytest.raises(SourceError, match="full cache"):
        hold(lambda: snapshots[1], tmp_path / "other")


def test_a_gated_model_is_read_with_the_token_of_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**tiny_spec(Path("/none"), Path("/none"), mode="estimate"), "target": None}
    spec["model"] = {"uri": "hf://org/name", "revision": None}
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        server.models["org/name"] = write_tiny_model(tmp_path / "offered")
        server.gated.add("org/name")
        child = ChildProcess(request(spec, tmp_path), folder(tmp_path), {"hf://": {"token": server.token}})
        said = follow(child)
        child.close()
    assert said[-1] == {"finished": True}, child.log_tail()
    assert COMMIT in (child.output / "report.json").read_text()
    texts = [str(said), *(file.read_text("latin-1") for file in tmp_path.rglob("*") if file.is_file())]
    assert not [text for text in texts if server.token in text]

"""Models fetched from a local server with the HTTP API of the hub."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sglp_core.checkpoints.fetch import fetch as fetch_model
from sglp_core.errors import ModelNotFound
from tests.services.hub import COMMIT, Hub, hub
from tests.worker.tiny_model import write_tiny_model

# The hub's client reads HF_ENDPOINT once, when it is imported, so it runs in a separate process.
PROGRAM = """
import json, sys
from pathlib import Path
from sglp_core.errors import SGLPError
from sglp_core.checkpoints.fetch import fetch, fetch_outline
from sglp_core.checkpoints.hub import HubAccess
for line in sys.stdin:
    uri, revision, cache, outline, access = json.loads(line)
    try:
        arguments = (uri, revision, Path(cache), [], HubAccess(**access))
        fetched_outline = fetch_outline(*arguments) if outline else None
        fetched = fetched_outline.fetched if fetched_outline else fetch(*arguments)
        files = sorted(str(file.relative_to(fetched.path)) for file in fetched.path.rglob('*') if file.is_file())
        answer = {"revision": fetched.revision, "origin": fetched.origin, "files": files}
        if fetched_outline:
            answer["weights_by_dtype"] = fetched_outline.weights_by_dtype
    except SGLPError as error:
        answer = {"error": error.code}
        assert "canary" not in str(error)
    print(json.dumps(answer), flush=True)
"""
Fetch = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with hub() as running:
        yield running


@pytest.fixture(scope="module")
def process(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as running:
        yield running
        running.kill()


@pytest.fixture
def fetch(process: subprocess.Popen[str], tmp_path: Path) -> Fetch:
    def ask(uri: str, revision: str | None = None, *, outline: bool = False, **access: Any) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([uri, revision, str(tmp_path / "cache"), outline, access]) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    return ask


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("written"))


@pytest.fixture
def model(server: Hub, written: Path, tmp_path: Path) -> Path:
    """What the hub offers as org/name: weights twice, and code."""
    folder = tmp_path / "offered"
    shutil.copytree(written, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_custom.py").write_text("raise SystemExit")
    server.models["org/name"] = folder
    server.requested.clear()
    return folder


def test_a_model_comes_with_its_commit_and_without_pickles_or_code(server: Hub, model: Path, fetch: Fetch) -> None:
    fetched = fetch("hf://org/name")
    assert (fetched["revision"], fetched["origin"]) == (COMMIT, "org/name")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(fetched["files"])
    assert not {"pytorch_model.bin", "modeling_custom.py"} & {*fetched["files"], *server.requested}


def test_a_second_fetch_downloads_nothing(server: Hub, model: Path, fetch: Fetch) -> None:
    first = fetch("hf://org/name")
    downloaded = len(server.requested)
    assert fetch("hf://org/name", COMMIT) == first
    assert len(server.requested) == downloaded > 0


def test_an_outline_comes_without_weights(server: Hub, model: Path, fetch: Fetch, tmp_path: Path) -> None:
    fetched = fetch("hf://org/name", outline=True)
    weights = sum(tensor.numel() for tensor in load_file(model / "model.safetensors").values())
    assert (fetched["revision"], fetched["weights_by_dtype"]) == (COMMIT, {"F32": weights})
    assert "config.json" in fetched["files"]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"not a header"), lambda file: file.unlink()])
def test_an_outline_of_damaged_weights_is_refused(
    server: Hub, model: Path, fetch: Fetch, damage: Callable[[Path], None]
) -> None:
    damage(model / "model.safetensors")
    assert fetch("hf://org/name", outline=True) == {"error": "unsafe_format"}


@pytest.mark.parametrize(("uri", "revision"), [("hf://org/other", None), ("hf://org/name", "no-such-branch")])
def test_an_unknown_model_or_revision(server: Hub, model: Path, fetch: Fetch, uri: str, revision: str | None) -> None:
    assert fetch(uri, revision) == {"error": "model_not_found"}
    assert server.requested == []


def test_a_model_with_pickles_only_is_refused_before_any_download(server: Hub, model: Path, fetch: Fetch) -> None:
    (model / "model.safetensors").unlink()
    assert fetch("hf://org/name") == {"error": "unsafe_format"}
    assert server.requested == []


def test_a_hub_that_breaks_off(server: Hub, fetch: Fetch) -> None:
    server.models["org/broken"] = Path("/nowhere")
    assert fetch("hf://org/broken") == {"error": "source_unreachable"}


@pytest.mark.parametrize("outline", [False, True])
def test_a_gated_model_needs_the_token(server: Hub, model: Path, fetch: Fetch, outline: bool) -> None:
    server.gated.add("org/name")
    try:
        assert fetch("hf://org/name", outline=outline, token=False) == {"error": "source_forbidden"}
        assert fetch("hf://org/name", outline=outline, token="canary") == {"error": "source_forbidden"}
        assert fetch("hf://org/name", outline=outline, token=server.token)["revision"] == COMMIT
    finally:
        server.gated.clear()


def test_a_revision_may_stand_in_the_uri(server: Hub, model: Path, fetch: Fetch) -> None:
    assert fetch(f"hf://org/name@{COMMIT}")["revision"] == COMMIT
    assert fetch("hf://org/name@no-such-branch") == {"error": "model_not_found"}


def test_only_what_loading_reads_is_downloaded(server: Hub, model: Path, fetch: Fetch) -> None:
    for name in ("onnx/config.json", "checkpoint-1/model.safetensors", "consolidated.safetensors"):
        (model / name).parent.mkdir(exist_ok=True)
        shutil.copy(model / "model.safetensors", model / name)
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    assert set(fetch("hf://org/name")["files"]) == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "additional_chat_templates/tool.jinja",
    }  # fmt: skip


def test_of_shards_those_that_the_index_names(server: Hub, model: Path, fetch: Fetch, tmp_path: Path) -> None:
    header = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "a.safetensors")
    shutil.copy(model / "a.safetensors", model / "consolidated.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(header, "a.safetensors")}))
    assert [file for file in fetch("hf://org/name")["files"] if file.endswith(".safetensors")] == ["a.safetensors"]
    index.write_text(json.dumps({"weight_map": dict.fromkeys(header, "missing.safetensors")}))
    shutil.rmtree(tmp_path / "cache")
    server.requested.clear()
    assert fetch("hf://org/name") == {"error": "model_not_found"}
    assert "a.safetensors" not in server.requested


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_what_cannot_be_loaded_is_refused_before_any_download(
    server: Hub, model: Path, fetch: Fetch, name: str
) -> None:
    (model / "config.json" if name == "config.json" else model / "model.safetensors").rename(model / "other")
    (model / "adapter_model.safetensors").touch()
    if name == "adapter_config.json":
        (model / name).touch()
    assert fetch("hf://org/name")["error"] == ("model_not_found" if name == "config.json" else "unsafe_format")
    assert server.requested == []


@pytest.mark.parametrize("outline", [False, True])
def test_quantised_weights_are_refused_before_they_are_downloaded(
    server: Hub, model: Path, fetch: Fetch, outline: bool
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    assert fetch("hf://org/name", outline=outline) == {"error": "unsupported_architecture"}
    assert server.requested == ["config.json"]


@pytest.mark.parametrize("outline", [False, True])
@pytest.mark.parametrize("limit", [{"max_bytes": 300_000}, {"max_files": 10}])
def test_everything_that_is_downloaded_counts_for_the_limits(
    server: Hub, model: Path, fetch: Fetch, limit: dict[str, int], outline: bool
) -> None:
    assert "error" not in fetch("hf://org/name", outline=outline, **limit)
    server.requested.clear()
    for number in range(20):
        (model / f"{number}.json").write_text(" " * 20_000)
    assert fetch("hf://org/name", outline=outline, **limit) == {"error": "insufficient_storage"}
    assert server.requested == []


def test_weights_that_an_outline_does_not_download_do_not_count(server: Hub, model: Path, fetch: Fetch) -> None:
    limit = (model / "model.safetensors").stat().st_size
    assert fetch("hf://org/name", max_bytes=limit) == {"error": "insufficient_storage"}
    assert "error" not in fetch("hf://org/name", outline=True, max_bytes=limit)


@pytest.mark.parametrize("outline", [False, True])
def test_a_download_ends_with_its_time(server: Hub, model: Path, fetch: Fetch, outline: bool) -> None:
    server.endless.add("tokenizer.json")
    try:
        began = time.monotonic()
        assert fetch("hf://org/name", outline=outline, seconds=1) == {"error": "source_unreachable"}
        assert time.monotonic() - began < 5
    finally:
        server.endless.clear()


@pytest.mark.parametrize("limit", [{"max_bytes": 1000}, {"max_files": 0}])
def test_a_model_beyond_the_limits_is_not_downloaded(
    server: Hub, model: Path, fetch: Fetch, limit: dict[str, int]
) -> None:
    assert fetch("hf://org/name", **limit) == {"error": "insufficient_storage"}
    assert server.requested == []


def test_a_name_without_its_scheme_is_told_how_a_model_of_the_hub_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no file or directory org/name; .* hf://org/name"):
        fetch_model("org/name", None, tmp_path, None)
    with pytest.raises(ModelNotFound, match=r"name$"):
        fetch_model("/models/org/name", None, tmp_path, None)

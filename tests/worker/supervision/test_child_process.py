"""The child process: its input, its messages, and that nothing of it outlives its end or its parent."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.worker.tiny_model import tiny_spec, write_text, write_tiny_model
from worker.confinement import weaknesses
from worker.sources.access import DownloadLimits
from worker.sources.local_spec import LocalSpec
from worker.supervision.child_process import ChildProcess
from worker.supervision.messages import ChildMisbehaved, ChildRequest, parse_message


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model hub that accepts connections and never answers: a job on it stays in its first phase."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield


def request(spec: dict[str, Any], root: Path) -> ChildRequest:
    return ChildRequest(
        spec=LocalSpec(**spec),
        roots=(root,),
        downloads=root / "cache",
        links=root,
        cache=root / "cache" / "tenants" / "default",
        limits=DownloadLimits(max_bytes=1 << 30, max_files=100, seconds=60, cache_bytes=1 << 30),
        redirect_places=(),
        allowed_networks=(),
        memory_bytes=None,
        uploads={},
        received=root / "state",
    )


def waiting_request(root: Path) -> ChildRequest:
    spec = {
        "mode": "analyze",
        "model": {"uri": "hf://some/model", "revision": None},
        "calibration": {},
    }
    return request(spec, root)


def follow(
    child: ChildProcess, until: Callable[[dict[str, Any]], bool] = lambda _message: False
) -> list[dict[str, Any]]:
    """The child's messages as JSON, up to its end or to the first one that `until` accepts."""
    received: list[dict[str, Any]] = []
    while True:
        ended = child.ended()
        for message in child.messages(0 if ended else 0.25):
            received.append(message.model_dump(mode="json"))
            if until(received[-1]):
                return received
        if ended:
            return received


def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def test_a_job_tells_its_phases_facts_and_end(tmp_path: Path) -> None:
    model, text = write_tiny_model(tmp_path / "model"), write_text(tmp_path / "text.txt")
    spec = tiny_spec(model, text, mode="analyze", target=None)
    child = ChildProcess(request(spec, tmp_path), folder(tmp_path))
    said = follow(child)
    status = child.close()
    phases = list(dict.fromkeys(m["progress"]["phase"] for m in said if "progress" in m))
    assert (status, said[-1]) == (0, {"finished": True}), child.log_tail()
    assert phases == ["fetching", "opening", "calibrating", "measuring", "publishing"]
    assert next(m["resolved"]["class"] for m in said if "resolved" in m) == "LlamaForCausalLM"
    assert (child.output / "manifest.json").is_file()


@pytest.mark.skipif(bool(weaknesses()), reason="this machine cannot confine jobs completely")
def test_the_method_runs_confined_and_offline(tmp_path: Path) -> None:
    """What that keeps it from: tests/worker/confinement."""
    model, text = write_tiny_model(tmp_path / "model"), write_text(tmp_path / "text.txt")
    child = ChildProcess(request(tiny_spec(model, text, mode="analyze", target=None), tmp_path), folder(tmp_path))
    try:
        follow(child, lambda message: message.get("progress", {}).get("phase") == "opening")
        process = psutil.Process(child._process.pid)
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        environment = process.environ()
    finally:
        child.close()
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapPrm"], 16)) == ("1", "2", 0)
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["HOME"] == environment["TMPDIR"] == str(child.output.parent / "tmp")


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON\n",
        b'{"progress": {"phase": "x"}}\n',
        b'{"plan": {"a": "\\u0000"}}\n',
        b'{"kept_result": "/etc/hostname"}\n',
    ],
)
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ChildMisbehaved):
        parse_message(line)


def test_a_refusal_is_one_typed_error(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path / "nowhere", tmp_path / "text.txt", mode="analyze", target=None)
    child = ChildProcess(request(spec, tmp_path), folder(tmp_path))
    said = follow(child)
    assert child.close() == 1
    assert said[-1]["error"]["code"] == "model_not_found"
    assert "Traceback" not in said[-1]["error"]["message"]


def test_the_child_sees_no_address_or_secret_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_hub: None
) -> None:
    for name in (
        "SGLP_DATABASE_URL",
        "SGLP_BROKER_URL",
        "SGLP_ARTIFACT_OPTIONS",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
    ):
        monkeypatch.setenv(name, "secret")
    child = ChildProcess(waiting_request(tmp_path), folder(tmp_path))
    try:
        follow(child, lambda message: "progress" in message)
        environment = psutil.Process(child._process.pid).environ()
    finally:
        child.close()
    assert "secret" not in environment.values()
    assert environment["HF_ENDPOINT"] == os.environ["HF_ENDPOINT"]


def test_a_hub_that_never_answers_takes_no_longer_than_downloads_may(tmp_path: Path, silent_hub: None) -> None:
    waiting = waiting_request(tmp_path)
    limited = waiting.model_copy(update={"limits": replace(waiting.limits, seconds=0.5)})
    child = ChildProcess(limited, folder(tmp_path))
    said = follow(child)
    assert (child.close(), said[-1]["error"]["code"]) == (1, "source_unreachable")


def test_sigterm_ends_it_at_once_and_cleanly(tmp_path: Path, silent_hub: None) -> None:
    child = ChildProcess(waiting_request(tmp_path), folder(tmp_path))
    follow(child, lambda message: "progress" in message)
    child.terminate()
    started = time.monotonic()
    said = follow(child)
    assert child.close() == 128 + signal.SIGTERM
    assert time.monotonic() - started < 5
    assert not any("error" in message for message in said)


def test_closing_kills_what_the_child_has_started(tmp_path: Path) -> None:
    model, text = write_tiny_model(tmp_path / "model"), write_text(tmp_path / "text.txt")
    spec = tiny_spec(model, text)
    child = ChildProcess(request(spec, tmp_path), folder(tmp_path))
    follow(child, lambda message: message.get("progress", {}).get("phase") == "verifying")
    while not (started := psutil.Process(child._process.pid).children(recursive=True)):
        time.sleep(0.05)
    assert child.close() == -signal.SIGKILL
    _, alive = psutil.wait_procs(started, timeout=5)
    assert alive == []


def test_the_child_dies_with_its_parent(tmp_path: Path, silent_hub: None) -> None:
    program = (
        "import json, sys; from pathlib import Path; from worker.supervision.child_process import ChildProcess\n"
        "from worker.supervision.messages import ChildRequest\n"
        "child = ChildProcess(ChildRequest.model_validate_json(sys.argv[1]), Path(sys.argv[2]))\n"
        "while not list(child.messages(60)): pass\n"
        "print(child._process.pid, flush=True); child.messages(60); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, waiting_request(tmp_path).model_dump_json(), str(folder(tmp_path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

"""The embedded service: one command, one folder, and no process afterwards, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from sglp_client import SGLP
from sglp_client.cli.app import app
from typer.testing import CliRunner

from tests.services.processes import free_port
from tests.worker.tiny_model import tiny_spec

SGLP_COMMAND = Path(sys.executable).with_name("sglp")
READY_SECONDS = 60


@contextmanager
def up(state: Path, models: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`sglp up`, ready, and its address; what is left of it is killed at the end."""
    port = free_port()
    command = [SGLP_COMMAND, "up", "--state", state, "--models", models, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        give_up = time.monotonic() + READY_SECONDS
        while not _answers(url):
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < give_up
            time.sleep(0.1)
        yield process, url
    finally:
        for left in _family(process):
            left.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process.pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def assert_gone(family: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(family, timeout=seconds)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left(tmp_path: Path, models: Path, number: int) -> None:
    with up(tmp_path / "state", models) as (process, url), SGLP(url) as service:
        job_id = service.submit(tiny_spec(models / "model", models / "text.txt"))["id"]
        while service.get(job_id)["status"] == "queued":
            time.sleep(0.1)
        time.sleep(1)
        family = _family(process)
        # API, worker, scheduler, this command itself, and the job's child.
        assert len(family) >= 5
        os.kill(process.pid, number)
        assert_gone(family, seconds=25)


def test_a_job_goes_on_after_a_restart_and_succeeds(tmp_path: Path, models: Path) -> None:
    state = tmp_path / "state"
    with up(state, models) as (process, url), SGLP(url) as service:
        job_id = service.submit(tiny_spec(models / "model", models / "text.txt"))["id"]
        process.send_signal(signal.SIGINT)
        process.wait(timeout=25)
    with up(state, models) as (process, url), SGLP(url) as service:
        job = service.wait(job_id)
        assert (job["status"], job["error"]) == ("succeeded", None)
        directory = service.download(job_id, tmp_path / "out")
        assert (directory / "model" / "model.safetensors").is_file()
    # Everything is below the state folder; the workers' part of it is empty again.
    assert [path for path in (state / "work").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "module",
    ["worker", *(pytest.param(each, marks=pytest.mark.slow) for each in ("worker.scheduler", "api"))],
)
def test_a_process_that_is_killed_is_started_again_and_the_job_succeeds(
    tmp_path: Path, models: Path, module: str
) -> None:
    with up(tmp_path / "state", models) as (process, url), SGLP(url) as service:
        time.sleep(10)  # A process that ends sooner than this would be taken for one that cannot start.
        job_id = service.submit(tiny_spec(models / "model", models / "text.txt"))["id"]
        while service.get(job_id)["phase"] is None:
            time.sleep(0.1)
        (victim,) = [p for p in _family(process) if p.cmdline()[1:] == ["-m", module]]
        victim.kill()
        job = service.wait(job_id)
        kinds = [event["type"] for event in service.events(job_id)]
    assert (job["status"], kinds.count("succeeded")) == ("succeeded", 1)
    assert job["attempt"] == (2 if module == "worker" else 1)


def test_two_services_cannot_share_a_folder(tmp_path: Path, models: Path) -> None:
    with up(tmp_path / "state", models):
        second = subprocess.run(
            [SGLP_COMMAND, "up", "--state", tmp_path / "state", "--port", str(free_port())],
            capture_output=True,
            text=True,
            check=False,
        )
    assert second.returncode == 1
    assert "another service is already running" in second.stderr


def test_keys_are_asked_for_where_the_environment_says_so(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLP_REQUIRE_KEYS", "true")
    monkeypatch.setenv("SGLP_GPU_CLASS", "large")
    with up(tmp_path / "state", models) as (process, url):
        assert httpx.get(f"{url}/v1/jobs").status_code == 401
        listed = subprocess.run([SGLP_COMMAND, "jobs", "--url", url], capture_output=True, text=True, check=False)
        assert (listed.returncode, "SGLP_API_KEY" in listed.stderr) == (1, True)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=25)[0].decode()
    assert "no authentication" not in said
    assert "These variables have no effect on `sglp up`: SGLP_GPU_CLASS" in said


def test_what_cannot_be_served_is_told_at_the_start(tmp_path: Path, models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, word in (
            (["--models", models, "--port", port], f"port {port} cannot be listened on: Address already in use"),
            (["--models", tmp_path / "nope"], "does not exist"),
            (["--models", models / "text.txt"], "is a file"),
        ):
            command = [SGLP_COMMAND, "up", "--state", tmp_path / "state", *arguments]
            refused = subprocess.run(command, capture_output=True, text=True, check=False)
            assert refused.returncode in {1, 2}
            assert word in " ".join(refused.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--metric", "accuracy"], "goes with --max-drop"),
        (["--of", "layers"], "goes with a fraction to remove"),
        (["--sweep", "0.2", "--leave", "4"], "give one of --leave and --sweep"),
        (["--options", "[1]"], "must be a JSON object"),
        (["--protect", "0", "--options", '{"method": []}'], "must be a JSON object"),
        (["--options", '{"model": "x"}'], "must be a JSON object"),
        (["--options", "{"], "not JSON"),
    ],
)
def test_options_that_do_not_go_together_submit_nothing(arguments: list[str], word: str) -> None:
    refused = CliRunner().invoke(app, ["submit", "model", *arguments])
    assert (refused.exit_code, word in " ".join(refused.stderr.replace("│", " ").split())) == (2, True)


def test_the_commands_do_a_job_from_start_to_end(tmp_path: Path, models: Path) -> None:
    with up(tmp_path / "state", models) as (_, url):

        def sglp(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [SGLP_COMMAND, *arguments, "--url", url], capture_output=True, text=True, check=False, cwd=tmp_path
            )

        options = '{"calibration": {"source": "%s", "samples": 8, "sequence_length": 16}, "evaluation": {"samples": 4}}'
        submitted = sglp(
            "submit", models / "model", "--remove", "0.34", "--of", "layers", "--watch",
            "--options", options % (models / "text.txt").as_uri(),
        )  # fmt: skip
        assert submitted.returncode == 0, submitted.stderr
        job_id, *lines = submitted.stdout.splitlines()
        assert lines[0] == "queued; waits for a worker"
        assert "succeeded" in lines
        assert any("perplexity" in line for line in lines)
        assert lines[-1] == f"sglp download {job_id}"
        assert job_id in sglp("jobs").stdout
        assert sglp("download", job_id).returncode == 0
        assert (tmp_path / job_id / "model" / "config.json").is_file()
        refused = sglp("submit", "/etc", "--remove", "0.5")
        assert refused.returncode == 1
        assert "sglp up --models" in refused.stderr
        guessed = sglp("submit", "meta-llama/Llama-3.2-1B", "--remove", "0.25")
        assert "hf://meta-llama/Llama-3.2-1B" in guessed.stderr

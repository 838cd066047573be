"""One job through API, worker and scheduler that were started from their images, over the servers of the tests."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from cryptography.fernet import Fernet
from sglp_client import SGLP
from sqlalchemy import make_url

from deploy.images.engines import Engine
from deploy.images.tcp_proxy import tcp_proxy
from tests.services.postgresql import postgresql
from tests.services.processes import free_port, wait_for_port
from tests.services.redis import redis
from tests.services.s3 import s3
from tests.worker.tiny_model import LAYERS, tiny_spec, write_text, write_tiny_model

USER = 10001
JOB_SECONDS = 900
END_SECONDS = 30
LOADS = """
import sys
from transformers import AutoModelForCausalLM
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(info.values()), info
print(len(model.model.layers))
"""


def run_one_job(engine: Engine, directory: Path) -> str:
    """What came of the job. Raises `AssertionError` where it did not succeed, or its result does not load."""
    models, work = directory / "models", directory / "work"
    write_tiny_model(models / "model")
    write_text(models / "text.txt")
    for file in models.rglob("*.safetensors"):
        # They are written for their owner alone.
        file.chmod(0o644)
    work.mkdir()
    os.chown(work, USER, USER)
    with ExitStack() as stack:
        environment = stack.enter_context(_servers(directory))
        port = environment["SGLP_PORT"]
        _run(engine.command("api", ["python", "-m", "jobs", "migrate"], environment=environment))
        create = [
            "python",
            "-m",
            "jobs",
            "create-key",
            "--tenant",
            "try",
            "--scope",
            "jobs:read",
            "--scope",
            "jobs:write",
        ]
        key = _run(engine.command("api", create, environment=environment)).strip()
        api = stack.enter_context(_container(engine.command("api", environment=environment), directory / "api.log"))
        wait_for_port(api, int(port), directory / "api.log")
        mounts = {models: "/models:ro", work: "/var/lib/sglp"}
        worker = engine.command("worker", environment=environment, mounts=mounts)
        scheduler = engine.command("worker", ["python", "-m", "worker.scheduler"], environment=environment)
        processes = [
            stack.enter_context(_container(command, directory / f"{name}.log"))
            for name, command in (("worker", worker), ("scheduler", scheduler))
        ]
        started = time.monotonic()
        with SGLP(f"http://127.0.0.1:{port}", api_key=key) as client:
            # As the worker sees the folder.
            spec = tiny_spec(Path("/models/model"), Path("/models/text.txt"), deadline_seconds=JOB_SECONDS)
            job = client.wait(client.submit(spec)["id"])
            logs = "\n".join(log.read_text()[-5000:] for log in directory.glob("*.log"))
            assert job["status"] == "succeeded", f"{job['error']}\n{logs}"
            seconds = time.monotonic() - started
            plan = job["plan"]
            assert plan is not None
            downloaded = client.download(job["id"], directory / "result")
        layers = int(_run([sys.executable, "-c", LOADS, str(downloaded / "model")]))
        assert layers == LAYERS - len(plan["removed_layers"]) < LAYERS
        for process in [*processes, api]:
            _end(process)
    return (
        f"one job through the containers: succeeded after {seconds:.0f} s, {LAYERS} layers before and {layers} after, "
        "and loads; every container ended after SIGTERM"
    )


@contextmanager
def _servers(directory: Path) -> Iterator[dict[str, str]]:
    """The environment variables of the containers, over servers that run until the end."""
    for name in ("s3", "redis"):
        (directory / name).mkdir()
    with (
        postgresql(directory / "postgresql") as database,
        # The server listens on a socket in a folder that only its own user enters.
        tcp_proxy(directory / "postgresql/.s.PGSQL.5432") as database_port,
        redis(directory / "redis") as broker,
        s3(directory / "s3") as store,
    ):
        empty = make_url(database.empty_database()).set(host="127.0.0.1", port=database_port, query={})
        yield {
            "SGLP_DATABASE_URL": empty.render_as_string(hide_password=False),
            "SGLP_BROKER_URL": broker,
            "SGLP_ARTIFACT_URL": f"{store.url}/try",
            "SGLP_ARTIFACT_OPTIONS": json.dumps(store.options),
            "SGLP_SECRET_KEYS": json.dumps([Fernet.generate_key().decode()]),
            "SGLP_MODEL_ROOTS": '["/models"]',
            "SGLP_PORT": str(free_port()),
        }


@contextmanager
def _container(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running container; it is killed at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a container as an engine does, and see that its process leaves in time."""
    # `unshare` passes no signal on to the first process of the container, and `docker run` does.
    first = next(iter(psutil.Process(process.pid).children()), process)
    first.send_signal(signal.SIGTERM)
    status = process.wait(END_SECONDS)
    # With an init process before it uvicorn ends by the signal, in the end.
    assert status in {0, 128 + signal.SIGTERM}, f"{process.args!r} ended with status {status}"


def _run(command: Sequence[str]) -> str:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, f"{command}: {completed.stderr}"
    return completed.stdout

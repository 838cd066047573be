"""The API told to stop while somebody watches a job."""

import os
import signal
import sys
import time
from pathlib import Path

import httpx

from api.__main__ import GRACE_SECONDS
from jobs.database import migrate
from tests.api.conftest import SPEC
from tests.services.processes import free_port, server_process


def test_an_event_stream_does_not_hold_it_up(tmp_path: Path) -> None:
    port, url = free_port(), f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url)
    environment = {
        **os.environ,
        "SGLP_DATABASE_URL": url,
        "SGLP_ARTIFACT_URL": (tmp_path / "artifacts").as_uri(),
        "SGLP_PORT": str(port),
    }
    jobs = f"http://127.0.0.1:{port}/v1/jobs"
    with server_process([sys.executable, "-m", "api"], port, tmp_path / "api.log", environment) as process:
        job = f"{jobs}/{httpx.post(jobs, json=SPEC).json()['id']}"
        with (
            httpx.stream("GET", f"{job}/events", headers={"Accept": "text/event-stream"}, timeout=60) as response,
        ):
            lines = response.iter_lines()
            while next(lines) != "event: queued":
                pass
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            # The stream is closed in order, not cut off.
            for _ in lines:
                pass
        assert process.wait(GRACE_SECONDS) in {0, -signal.SIGTERM}, (tmp_path / "api.log").read_text()
        assert time.monotonic() - begin < GRACE_SECONDS / 2

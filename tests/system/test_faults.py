"""What a job survives, and how it ends when it must not go on. Every process is a real one."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.artifacts import open_store
from tests.services.stack import GRACE_SECONDS, LEASE_SECONDS, Stack, freeze, thaw
from tests.worker.tiny_model import tiny_spec, write_text

# Starting Python and reading one heartbeat, on a machine that is busy.
SLACK_SECONDS = 5


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model hub that never answers, for workers started by the test: a job on it runs until it is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield


@pytest.fixture(autouse=True)
def no_worker_is_left(stack: Stack) -> Iterator[None]:
    yield
    stack.end_workers()


def endless(**changes: Any) -> dict[str, Any]:
    return {"mode": "analyze", "model": {"uri": "hf://org/name"}, **changes}


def is_running(job: dict[str, Any]) -> bool:
    return job["phase"] == "fetching"


def ends(stack: Stack, job_id: str) -> list[str]:
    return [kind for kind in stack.event_types(job_id) if kind in {"succeeded", "failed", "cancelled"}]


def test_a_running_job_is_cancelled_within_grace_and_a_quarter_of_the_lease(stack: Stack, silent_hub: None) -> None:
    worker = stack.start_worker()
    job_id = stack.client.submit(endless())["id"]
    stack.wait_for(job_id, is_running)
    children = psutil.Process(worker.pid).children(recursive=True)
    started = time.monotonic()
    assert stack.client.cancel(job_id)["status"] == "cancelling"
    job = stack.wait_for_end(job_id)
    assert time.monotonic() - started < GRACE_SECONDS + LEASE_SECONDS / 4 + SLACK_SECONDS
    assert (job["status"], ends(stack, job_id)) == ("cancelled", ["cancelled"])
    assert children
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert stack.work_files() == []


def test_a_worker_that_may_not_be_idle_ends_after_its_job(stack: Stack, models: Path) -> None:
    job_id = stack.client.submit(tiny_spec(models / "model", models / "text.txt", mode="estimate"))["id"]
    # The job takes longer.
    worker = stack.start_worker(worker_idle_seconds=3)
    assert worker.wait(60) == 0
    job = stack.client.get(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), stack.logs()


def test_a_running_job_ends_at_its_deadline(stack: Stack, silent_hub: None) -> None:
    stack.start_worker()
    job = stack.wait_for_end(stack.client.submit(endless(deadline_seconds=20))["id"])
    assert (job["status"], job["error"]["code"], job["error"]["phase"]) == ("failed", "deadline_exceeded", "fetching")
    assert stack.work_files() == []


def test_a_job_no_worker_takes_ends_at_its_deadline(stack: Stack) -> None:
    job = stack.wait_for_end(stack.client.submit(endless(deadline_seconds=1, gpu_class="nobody"))["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "queue_deadline_exceeded")


def test_a_killed_workers_job_goes_on_and_succeeds_on_another(stack: Stack, models: Path) -> None:
    first = stack.start_worker()
    own = {"source": write_text(models / "own.txt", lines=300).as_uri(), "batch_size": 6}
    healing = {"steps": 480, "learning_rate": 1e-5, "alpha": 0.0, "trained": "lora", **own}
    job_id = stack.client.submit(tiny_spec(models / "model", models / "text.txt", healing=healing))["id"]
    # Held-out data is asked, and the state kept, at every sixtieth step.
    stack.wait_for(job_id, lambda job: job["phase"] == "healing" and job["progress"]["done"] > 60)
    children = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    killed = time.monotonic()
    stack.start_worker()
    stack.wait_for(job_id, lambda job: job["attempt"] == 2)
    assert time.monotonic() - killed < 2 * LEASE_SECONDS + SLACK_SECONDS
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"], ends(stack, job_id)) == ("succeeded", 2, ["succeeded"]), stack.logs()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    healed = stack.client.report(job_id)["healing"]
    assert healed["resumed_from_step"] >= 60
    assert (healed["trained"], healed["curve"][-1]["step"]) == ("lora", 480)
    assert own.items() <= healed.items()
    # The folder of the killed attempt went when the next job began on that disk.
    assert stack.work_files() == []


def test_a_job_that_kills_every_worker_is_given_up(stack: Stack, silent_hub: None) -> None:
    job_id = stack.client.submit(endless())["id"]
    for attempt in (1, 2, 3):
        worker = stack.start_worker()
        stack.wait_for(job_id, lambda job, attempt=attempt: job["attempt"] == attempt and is_running(job))
        worker.kill()
    job = stack.wait_for_end(job_id)
    assert (job["error"]["code"], job["attempt"], ends(stack, job_id)) == ("worker_lost", 3, ["failed"])


def test_a_worker_that_is_told_to_stop_gives_its_job_back(stack: Stack, silent_hub: None) -> None:
    worker = stack.start_worker()
    job_id = stack.client.submit(endless())["id"]
    stack.wait_for(job_id, is_running)
    worker.terminate()
    assert worker.wait(timeout=GRACE_SECONDS + SLACK_SECONDS) == 0
    job = stack.client.get(job_id)
    assert (job["status"], job["attempt"]) == ("queued", 0)
    reasons = [event["data"] for event in stack.client.events(job_id) if event["type"] == "requeued"]
    assert reasons == [{"reason": "worker_shutdown"}]
    stack.client.cancel(job_id)


def test_a_worker_that_froze_past_its_lease_writes_nothing(stack: Stack, models: Path) -> None:
    frozen = stack.start_worker()
    job_id = stack.client.submit(tiny_spec(models / "model", models / "text.txt"))["id"]
    # Near its end; each of these phases alone may be shorter than it takes to see it.
    stack.wait_for(job_id, lambda job: job["phase"] in {"evaluating", "pruning", "verifying"})
    freeze(frozen)
    stack.start_worker()
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    events = list(stack.client.events(job_id))
    thaw(frozen)
    while psutil.Process(frozen.pid).children():
        time.sleep(0.1)
    assert list(stack.client.events(job_id)) == events
    assert stack.client.get(job_id)["version"] == job["version"]
    # Only the attempt that has ended the job has files in the store, beside results of steps, which the sweep deletes.
    prefixes = {key.split("/")[2] for key in open_store(stack.read_settings()).list(f"jobs/{job_id}/")}
    assert len(prefixes - {"kept"}) == 1


def test_a_job_is_accepted_and_ends_although_no_hint_can_be_sent(stack: Stack, tmp_path: Path) -> None:
    # This worker listens to nobody's broker; it is started again on the right one after the hint was due.
    deaf = stack.start_worker(broker_url=f"filesystem://{tmp_path}")
    job_id = stack.client.submit(endless(model={"uri": "hf://org/none"}, deadline_seconds=600))["id"]
    time.sleep(1)
    assert stack.client.get(job_id)["status"] == "queued"
    deaf.kill()
    stack.start_worker()
    assert stack.wait_for_end(job_id)["error"]["code"] in {"source_unreachable", "model_not_found"}


def test_a_worker_whose_disk_is_broken_fails_no_job(stack: Stack, models: Path) -> None:
    broken = stack.start_worker(work_dir="/dev/null/work")
    job_id = stack.client.submit(tiny_spec(models / "model", models / "text.txt"))["id"]
    stack.wait_for(job_id, lambda job: job["attempt"] == 1)
    broken.kill()
    stack.start_worker()
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)


def test_no_secret_is_in_a_log(stack: Stack) -> None:
    secret = stack.settings["artifact_options"]["secret_access_key"]
    assert json.dumps(secret)[1:-1] not in stack.logs()


def test_the_service_ends_cleanly_when_told(stack: Stack) -> None:
    worker = stack.start_worker()
    time.sleep(4)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(timeout=10) == 0, stack.logs()

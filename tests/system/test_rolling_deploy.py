"""Every worker is replaced twice while a job runs; each new one has empty disks, as on another machine."""

import signal
from pathlib import Path
from typing import Any

from tests.services.stack import Stack
from tests.worker.tiny_model import tiny_spec

STEPS = 480


def test_a_job_loses_little_when_all_workers_are_replaced_twice(stack: Stack, models: Path, tmp_path: Path) -> None:
    disks = iter(range(10))

    def start() -> Any:
        disk = tmp_path / str(next(disks))
        return stack.start_worker(cache_dir=str(disk / "cache"), work_dir=str(disk / "work"))

    workers = [start(), start()]
    # Held-out data is asked, and the state kept, at every sixtieth step.
    healing = {"steps": STEPS, "learning_rate": 1e-5, "alpha": 0.0, "trained": "lora"}
    spec = tiny_spec(models / "model", models / "text.txt", healing=healing, method={"repair": "auto"})
    job_id = stack.client.submit(spec)["id"]
    for step in (60, 180):
        stack.wait_for(job_id, lambda job, step=step: job["phase"] == "healing" and job["progress"]["done"] > step)
        replaced, workers = workers, [start(), start()]
        for worker in replaced:
            worker.send_signal(signal.SIGTERM)
        for worker in replaced:
            worker.wait(30)
    job = stack.wait_for_end(job_id, 240)
    # A worker that is asked to end gives its job back, which counts as no attempt.
    assert (job["status"], job["attempt"]) == ("succeeded", 1), stack.logs()
    report = stack.client.report(job_id)
    assert report["analysis"]["reused"]
    assert report["healing"]["resumed_from_step"] >= 120
    phases = [event["data"]["phase"] for event in stack.client.events(job_id) if event["type"] == "phase"]
    assert phases.count("measuring") == 1
    requeued = [event for event in stack.client.events(job_id) if event["type"] == "requeued"]
    assert len(requeued) == 2

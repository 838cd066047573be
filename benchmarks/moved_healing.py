"""`python -m benchmarks.moved_healing`: a healing that is killed again and again, each time goes on on another worker,
and must end with the weights of one that ran through.

API, scheduler, workers, PostgreSQL, Redis and an S3 server are real processes on loopback. Each worker has disks of its
own, so a state can only come from the store.
"""

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Annotated, Any

import psutil
import typer
from sglp_client import Job

from benchmarks.markdown_table import print_table
from jobs.artifacts import ArtifactStore, open_store
from tests.services.postgresql import postgresql
from tests.services.redis import redis
from tests.services.s3 import s3
from tests.services.stack import Stack, freeze, running_stack
from tests.worker.tiny_model import tiny_spec, write_text, write_tiny_model

DAY_SECONDS = 86_400
SWEPT_WITHIN_SECONDS = 60.0


@dataclass
class Kill:
    """One kill: `at_step` is the step that was shown last before it, `seen_from` the first one shown after it."""

    worker: str
    how: str
    at_step: int
    seen_from: int = 0


@dataclass
class Outcome:
    """`differing` are the files of the model that are not those of the job that ran through, of `files` in all.

    Seconds are from submission to end; `state_bytes` is the largest state seen in the store, `stored_states` the number
    of states that were stored, and `left_over` what still lay in the store of them after the end.
    """

    kills: list[Kill] = field(default_factory=list)
    steps: int = 0
    resumed_from_step: int = 0
    files: int = 0
    differing: list[str] = field(default_factory=list)
    same_curve: bool = False
    seconds: float = 0.0
    undisturbed_seconds: float = 0.0
    state_bytes: int = 0
    stored_states: int = 0
    left_over: list[str] = field(default_factory=list)


def run(directory: Path, steps: int, kills: int, seed: int, hidden_size: int, tell: Callable[[str], None]) -> Outcome:
    """Everything is started below `directory`, listens on loopback, and is ended.

    Raises `AssertionError` where a job does not end with success.
    """
    models = directory / "models"
    write_tiny_model(models / "model", hidden_size)
    write_text(models / "text.txt", lines=300)
    for name in ("postgresql", "redis", "s3", "stack"):
        (directory / name).mkdir()
    healing = {"steps": steps, "alpha": 0.0, "trained": "all"}
    spec = tiny_spec(models / "model", models / "text.txt", healing=healing, deadline_seconds=DAY_SECONDS)
    with (
        postgresql(directory / "postgresql") as database,
        redis(directory / "redis") as broker_url,
        s3(directory / "s3") as objects,
        running_stack(
            directory / "stack",
            database_url=database.database(),
            broker_url=broker_url,
            artifact_url=f"{objects.url}/moved",
            artifact_options=objects.options,
            model_roots=[str(models)],
            max_attempts=kills + 1,
            sweep_after_seconds=1,
        ) as stack,
    ):
        outcome = Outcome(steps=steps)
        expected, outcome.undisturbed_seconds = _ran_through(stack, directory, spec)
        tell(f"ran through in {outcome.undisturbed_seconds:.0f} s")
        found, outcome.seconds = _killed(stack, directory, spec, outcome, _moments(steps, kills, seed), tell)
        hashes = [_model_files(stack, job_id) for job_id in (expected, found)]
        outcome.files = len(hashes[0])
        outcome.differing = sorted(
            name for name in hashes[0].keys() | hashes[1].keys() if hashes[0].get(name) != hashes[1].get(name)
        )
        curves = [stack.client.report(job_id)["healing"] for job_id in (expected, found)]
        outcome.same_curve = curves[0]["curve"] == curves[1]["curve"]
        outcome.resumed_from_step = curves[1]["resumed_from_step"]
        outcome.stored_states = stack.logs().count('"file": "healings/')
        store, give_up = open_store(stack.read_settings()), time.monotonic() + SWEPT_WITHIN_SECONDS
        while (left := _states(store, expected) | _states(store, found)) and time.monotonic() < give_up:
            time.sleep(0.2)
        outcome.left_over = sorted(left)
        return outcome


def _ran_through(stack: Stack, directory: Path, spec: dict[str, Any]) -> tuple[str, float]:
    _start_worker(stack, directory, "undisturbed")
    started = time.monotonic()
    job = stack.wait_for_end(stack.client.submit(spec)["id"], DAY_SECONDS)
    assert job["status"] == "succeeded", stack.logs()
    stack.end_workers()
    return job["id"], time.monotonic() - started


def _killed(
    stack: Stack,
    directory: Path,
    spec: dict[str, Any],
    outcome: Outcome,
    moments: list[int],
    tell: Callable[[str], None],
) -> tuple[str, float]:
    store = open_store(stack.read_settings())
    names = ["first", "second"]
    worker = _start_worker(stack, directory, names[0])
    started = time.monotonic()
    job_id = stack.client.submit(spec)["id"]
    for number, moment in enumerate(moments):
        last = _wait_for_step(stack, job_id, number + 1, moment)
        # A worker takes its child along. The other way round is one that must not report how its child ended.
        how = ("worker", "child, then worker")[number % 2]
        _kill(worker, child_first=number % 2 == 1)
        outcome.state_bytes = max([outcome.state_bytes, *_states(store, job_id).values()])
        kill = Kill(names[0], how, last)
        outcome.kills.append(kill)
        names.reverse()
        worker = _start_worker(stack, directory, names[0])
        kill.seen_from = _wait_for_step(stack, job_id, number + 2, 0)
        tell(f"killed at step {kill.at_step}, goes on on the {names[0]} worker, seen from step {kill.seen_from}")
    job = stack.wait_for_end(job_id, DAY_SECONDS)
    assert (job["status"], job["attempt"]) == ("succeeded", len(moments) + 1), (job, stack.logs())
    return job_id, time.monotonic() - started


def _moments(steps: int, kills: int, seed: int) -> list[int]:
    """Steps at which to kill, drawn from all but the first eighth, in which nothing may have been kept yet."""
    return sorted(random.Random(seed).sample(range(steps // 8, steps), kills))


def _start_worker(stack: Stack, directory: Path, name: str) -> "Popen[bytes]":
    disk = directory / name
    return stack.start_worker(cache_dir=str(disk / "cache"), work_dir=str(disk / "work"))


def _wait_for_step(stack: Stack, job_id: str, attempt: int, step: int) -> int:
    """Wait until this attempt heals and has done this step, or is past healing; returns the step shown."""

    def reached(job: Job) -> bool:
        if job["attempt"] != attempt or job["status"] != "running":
            assert job["finished_at"] is None, (job, stack.logs())
            return False
        return _healed_steps(job) >= step or job["phase"] in {
            "verifying",
            "evaluating",
            "publishing",
        }

    job = stack.wait_for(job_id, reached, DAY_SECONDS)
    return _healed_steps(job)


def _healed_steps(job: Job) -> int:
    return job["progress"]["done"] if job["phase"] == "healing" and job["progress"] else -1


def _kill(worker: "Popen[bytes]", *, child_first: bool) -> None:
    if child_first:
        (*_, child) = psutil.Process(worker.pid).children()
        freeze(worker)
        child.kill()
    worker.kill()
    worker.wait()


def _model_files(stack: Stack, job_id: str) -> dict[str, str]:
    return {
        artifact["name"]: artifact["sha256"]
        for artifact in stack.client.artifacts(job_id)
        # The model card says from which step the healing was resumed.
        if artifact["name"].startswith("model/") and artifact["name"] != "model/README.md"
    }


def _states(store: ArtifactStore, job_id: str) -> dict[str, int]:
    return store.sizes(f"jobs/{job_id}/kept/")


def main(
    steps: Annotated[int, typer.Option(min=80, max=100_000, help="Steps of the healing.")] = 3000,
    kills: Annotated[int, typer.Option(min=1, max=100, help="How often its worker is killed.")] = 5,
    seed: Annotated[int, typer.Option(help="Draws the moments of the kills.")] = 0,
    hidden_size: Annotated[int, typer.Option(min=32, help="Width of the model, a multiple of 4.")] = 256,
) -> None:
    """Exit with 1 where the weights differ, the curve does, or something was left in the store."""
    with tempfile.TemporaryDirectory(prefix="moved-healing-") as name:
        # The database server runs as a separate user and must reach its folder.
        Path(name).chmod(0o755)
        outcome = run(Path(name), steps, kills, seed, hidden_size, typer.echo)
    rows = [
        {
            "killed": kill.how,
            "on": kill.worker,
            "at step": str(kill.at_step),
            "then seen from step": str(kill.seen_from),
        }
        for kill in outcome.kills
    ]
    print_table(f"A healing of {steps} steps, killed {kills} times (seed {seed})", rows)
    typer.echo(f"the last process resumed from step {outcome.resumed_from_step}")
    typer.echo(f"{outcome.stored_states} states stored by both jobs, the largest {outcome.state_bytes / 1e6:.1f} MB")
    typer.echo(f"{outcome.seconds:.0f} s; {outcome.undisturbed_seconds:.0f} s for the job that ran through")
    same = outcome.files - len(outcome.differing)
    typer.echo(f"{same} of {outcome.files} files of the model are the same; same curve: {outcome.same_curve}")
    typer.echo(f"left in the store: {outcome.left_over or 'nothing'}")
    if outcome.differing or not outcome.same_curve or outcome.left_over:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

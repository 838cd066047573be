"""`python -m benchmarks.sizing`: what each process of the service takes while nothing happens, and while jobs run.

The jobs heal a model of a few kilobytes until they are cancelled, so each writes its progress once a second as a long
job does. The processes that compute are not in the table: they take what the model takes.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cpu_seconds import cpu_seconds
from jobs.settings import Settings
from tests.services.postgresql import PostgreSQL, postgresql
from tests.services.redis import redis
from tests.services.stack import Stack
from tests.worker.tiny_model import tiny_spec, write_text, write_tiny_model

STARTING_SECONDS = 10.0
console = Console(width=120)


def main(
    seconds: Annotated[float, typer.Option(help="How long each state is measured.")] = 30.0,
    jobs: Annotated[int, typer.Option(help="Workers, each with one job.")] = 2,
) -> None:
    """Print memory and CPU of every process, idle and with running jobs."""
    with tempfile.TemporaryDirectory(prefix="sizing-") as name:
        directory = Path(name)
        # The database server runs as a separate user and must reach its folder.
        directory.chmod(0o755)
        for folder in ("postgresql", "stack", "model"):
            (directory / folder).mkdir()
        write_tiny_model(directory / "model")
        write_text(directory / "text.txt")
        with postgresql(directory / "postgresql") as database, redis(directory) as broker_url:
            stack = Stack(
                directory / "stack",
                {
                    "database_url": database.database(),
                    "broker_url": broker_url,
                    "artifact_url": (directory / "artifacts").as_uri(),
                    "model_roots": [str(directory)],
                    "lease_seconds": Settings().lease_seconds,
                    "scheduler_interval_seconds": Settings().scheduler_interval_seconds,
                },
            )
            try:
                _measure(stack, directory, database, seconds, jobs)
            finally:
                stack.end()


def _measure(stack: Stack, directory: Path, database: PostgreSQL, seconds: float, jobs: int) -> None:
    processes = {
        "API": [psutil.Process(stack.start_api().pid)],
        "scheduler": [psutil.Process(stack.start_scheduler().pid)],
        "worker": [psutil.Process(stack.start_worker().pid) for _ in range(jobs)],
        "Redis": [each for each in psutil.Process().children() if each.name().startswith("redis")],
    }
    time.sleep(STARTING_SECONDS)
    idle = _cpu_shares(processes, database, seconds)
    spec = tiny_spec(directory / "model", directory / "text.txt", healing={"steps": 100_000, "trained": "all"})
    ids = [stack.client.submit(spec)["id"] for _ in range(jobs)]
    for job_id in ids:
        stack.wait_for(job_id, lambda job: job["phase"] == "healing")
    running = _cpu_shares(processes, database, seconds)
    memory = {name: sum(each.memory_full_info().pss for each in found) for name, found in processes.items()}
    memory["PostgreSQL"] = sum(each.memory_full_info().pss for each in database.processes)
    counts = {name: len(found) for name, found in processes.items()}
    table = Table("", "processes", "MB", "% of a core, idle", f"with {jobs} running jobs", title=f"{seconds:g} s each")
    for name, size_bytes in memory.items():
        shares = f"{idle[name]:.2%}", f"{running[name]:.2%}"
        table.add_row(name, str(counts.get(name, 1)), f"{size_bytes / 1e6:.0f}", *shares)
    console.print(table)
    more = (running["PostgreSQL"] - idle["PostgreSQL"]) / jobs
    console.print(f"each running job takes {1000 * more:.2f} ms of the database's CPU a second")


def _cpu_shares(
    processes: Mapping[str, Sequence[psutil.Process]], database: PostgreSQL, seconds: float
) -> dict[str, float]:
    """The share of one core that all processes of a name together take; without those that they have started."""

    def spent() -> dict[str, float]:
        own = {name: sum(sum(each.cpu_times()[:2]) for each in found) for name, found in processes.items()}
        return {**own, "PostgreSQL": cpu_seconds(database.processes)}

    before = spent()
    time.sleep(seconds)
    after = spent()
    return {name: (after[name] - before[name]) / seconds for name in before}


if __name__ == "__main__":
    typer.run(main)

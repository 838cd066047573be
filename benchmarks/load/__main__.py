"""`python -m benchmarks.load`: submissions, polls, lists and event streams of one API process over PostgreSQL, and how
soon an idle worker starts a job.

Everything is a real process on loopback, the generator of the load too; on a machine of few cores they share them, so
only ratios within one run say much. The bare endpoint (`bare.py`) shows what the framework and the database cost alone.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx
import psutil
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.cpu_seconds import cpu_seconds
from jobs.database import make_sessions, open_engine, transaction
from jobs.repository import KeyRepository, TenantRepository
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from jobs.tables import Job
from tests.services.postgresql import PostgreSQL, postgresql
from tests.services.processes import free_port, wait_for_port
from tests.services.redis import redis
from tests.services.stack import Stack, running_stack

SPEC = {"mode": "analyze", "model": {"uri": "hf://org/name"}}
CLIENTS = (1, 16, 64)
GOAL = 0.7
TURNS = 4
console = Console(width=130)


class Service(NamedTuple):
    """An API process, the address of its jobs, and the headers of a request; `name` tells it from others."""

    name: str
    process: psutil.Process
    jobs: str
    headers: dict[str, str]


def main(
    seconds: Annotated[float, typer.Option(help="How long each row is measured.")] = 5.0,
    watchers: Annotated[int, typer.Option(help="Event streams at once.")] = 1000,
    rows: Annotated[int, typer.Option(help="Jobs in the table for the list.")] = 100_000,
    starts: Annotated[int, typer.Option(help="Jobs for an idle worker to start, one after the other.")] = 40,
) -> None:
    """Print throughput beside the bare endpoint, then event streams, then lists, then how soon jobs start."""
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        directory = Path(name)
        # The database server runs as a separate user and must reach its folder.
        directory.chmod(0o755)
        for folder in ("postgresql", "stack", "whole"):
            (directory / folder).mkdir()
        with postgresql(directory / "postgresql") as database, _bare(database.empty_database(), directory) as bare:
            database_url = database.database()
            settings = {
                "database_url": database_url,
                "broker_url": "redis://127.0.0.1:1/0",
                "artifact_url": (directory / "artifacts").as_uri(),
                "requests_per_minute": 100_000_000,
                "tenant_max_queued_jobs": 100_000_000,
            }
            stack = Stack(directory / "stack", settings)
            try:
                api, port = psutil.Process(stack.start_api().pid), free_port()
                ours = f"http://127.0.0.1:{stack.port}/v1/jobs"
                keyed = psutil.Process(stack.start_api(port, require_keys=True).pid)
                key = _key(database_url)
                services = [
                    Service("", api, ours, {}),
                    Service(
                        " with a key", keyed, f"http://127.0.0.1:{port}/v1/jobs", {"Authorization": f"Bearer {key}"}
                    ),
                ]
                _throughput(services, bare, seconds, database)
                _watching(ours, watchers, api)
                _listing(ours, database_url, rows, seconds)
            finally:
                stack.end()
            if starts:
                with redis(directory) as broker_url:
                    changed = {"broker_url": broker_url, "database_url": database.database()}
                    _starting(directory, settings | changed, starts)


@contextmanager
def _bare(url: str, directory: Path) -> Iterator[str]:
    port = free_port()
    with (directory / "bare.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.load.bare", url, str(port)], stderr=log)
    try:
        wait_for_port(process, port, directory / "bare.log")
        yield f"http://127.0.0.1:{port}/rows"
    finally:
        process.kill()
        process.wait()


def _key(database_url: str) -> str:
    engine = open_engine(database_url)
    with transaction(make_sessions(engine)) as session:
        TenantRepository(session).ensure("team")
        key, _ = KeyRepository(session).create("team", "load", list(Scope), expires_in_seconds=None)
    engine.dispose()
    return key


def _throughput(services: list[Service], bare: str, seconds: float, database: PostgreSQL) -> None:
    columns = ("", "clients", "per second", "p50 ms", "p95 ms", "p99 ms", "API CPU ms", "database CPU ms", "of bare")
    table = Table(*columns, title=f"one API process, {seconds:g} s a row", caption=f"goal: {GOAL:.0%} of bare or more")
    row = httpx.post(bare, json=SPEC).json()["id"]
    for service in services:
        job = httpx.post(service.jobs, json=SPEC, headers=service.headers).json()["id"]
        works: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
            "submit": (
                {"method": "POST", "url": service.jobs, "json": SPEC, "headers": service.headers},
                {"method": "POST", "url": bare, "json": SPEC},
            ),
            "poll": (
                {"method": "GET", "url": f"{service.jobs}/{job}", "headers": service.headers},
                {"method": "GET", "url": f"{bare}/{row}"},
            ),
        }
        for name, (asked, bare_asked) in works.items():
            for clients in CLIENTS:
                figures = _measured(service.process, database, asked, bare_asked, clients, seconds)
                table.add_row(name + service.name, str(clients), *figures)
    console.print(table)


def _measured(
    api: psutil.Process,
    database: PostgreSQL,
    asked: dict[str, Any],
    bare_asked: dict[str, Any],
    clients: int,
    seconds: float,
) -> list[str]:
    """The cells of a row from `per second` on."""
    took, reference, spent = [], [], [0.0, 0.0]
    # In turns, so that other load on the machine affects both alike.
    for _ in range(TURNS):
        before = cpu_seconds([api]), cpu_seconds(database.processes)
        took += _order(do="hammer", request=asked, clients=clients, seconds=seconds / TURNS)
        after = cpu_seconds([api]), cpu_seconds(database.processes)
        spent = [s + b - a for s, a, b in zip(spent, before, after, strict=True)]
        reference += _order(do="hammer", request=bare_asked, clients=clients, seconds=seconds / TURNS)
    milliseconds = (1000 * _quantile(took, share) for share in (0.50, 0.95, 0.99))
    return [
        f"{len(took) / seconds:.0f}",
        *(f"{each:.1f}" for each in milliseconds),
        *(f"{1000 * each / len(took):.2f}" for each in spent),
        f"{len(took) / len(reference):.0%}",
    ]


def _watching(ours: str, watchers: int, api: psutil.Process) -> None:
    job = httpx.post(ours, json=SPEC).json()["id"]
    before = api.memory_info().rss
    delays = _order(do="watch", url=f"{ours}/{job}/events", watchers=watchers, end_of=f"{ours}/{job}/cancel")
    grown = (api.memory_info().rss - before) / 1e6
    console.print(
        f"{len(delays)} of {watchers} streams received the end, {statistics.median(delays):.2f} s (median), "
        f"{_quantile(delays, 0.95):.2f} s (p95; goal below 2) after it was asked for; "
        f"the API process grew by {grown:.0f} MB"
    )


def _listing(ours: str, database_url: str, rows: int, seconds: float) -> None:
    asked = {"method": "GET", "url": f"{ours}?status=failed&limit=20"}, {"method": "GET", "url": f"{ours}?limit=20"}
    engine = open_engine(database_url)
    with engine.begin() as connection:
        # As few as a page shows, so that both lists are as long.
        connection.execute(text("DELETE FROM jobs WHERE id NOT IN (SELECT id FROM jobs ORDER BY id LIMIT 20)"))
    few = [_quantile(_order(do="hammer", request=each, clients=1, seconds=seconds), 0.95) for each in asked]
    with engine.begin() as connection:
        others = ", ".join(column.name for column in Job.__table__.columns if column.name != "id")
        copied = (
            f"INSERT INTO jobs (id, {others}) SELECT 'job_' || lpad(n::text, 26, '0'), {others} "
            "FROM generate_series(1, :rows) n, (SELECT * FROM jobs LIMIT 1) j"
        )
        connection.execute(text(copied), {"rows": rows})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE jobs"))
    many = [_quantile(_order(do="hammer", request=each, clients=1, seconds=seconds), 0.95) for each in asked]
    engine.dispose()
    for name, one, other in zip(("by a state that no job has", "the newest"), few, many, strict=True):
        console.print(
            f"list, {name}: p95 {1000 * one:.1f} ms with 20 jobs, {1000 * other:.1f} ms with {rows:,} more "
            f"({other / one:.2f} times; goal below 2)"
        )


def _starting(directory: Path, settings: dict[str, Any], starts: int) -> None:
    """Every process of the service, with the scheduler as it is set by default; times are the database's."""
    interval = Settings().scheduler_interval_seconds
    with running_stack(directory / "whole", **settings, scheduler_interval_seconds=interval) as stack:
        stack.start_worker()
        took = []
        for number in range(starts + 1):
            # Submissions must not fall into step with the scheduler's rounds.
            time.sleep(random.uniform(0, 2 * interval))
            job_id = stack.client.submit(SPEC)["id"]
            job = stack.wait_for(job_id, lambda job: job["started_at"] is not None)
            stack.client.cancel(job_id)
            stack.wait_for_end(job_id)
            # The first waits for the worker's own start.
            if number:
                assert job["started_at"]
                waited = datetime.fromisoformat(job["started_at"]) - datetime.fromisoformat(job["created_at"])
                took.append(waited.total_seconds())
    console.print(
        f"{starts} jobs from submission to start with an idle worker: {statistics.median(took):.2f} s (median), "
        f"{_quantile(took, 0.95):.2f} s (p95; goal below 1), {max(took):.2f} s at most"
    )


def _order(**order: Any) -> list[float]:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.load.client", json.dumps(order)], check=True, stdout=subprocess.PIPE
    )
    found: list[float] = json.loads(run.stdout)
    return found


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    typer.run(main)

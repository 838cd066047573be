"""`python -m benchmarks.fairness`: three tenants queue 10,000, 500 and 5 jobs, and 50 workers take them in turns.

The workers claim through the service's own repository from a real PostgreSQL and hold each job some tens of
milliseconds; nothing is computed. All of it shares the cores of one machine, so rates say little and shares much.
"""

import itertools
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, select
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.cpu_seconds import cpu_seconds
from jobs.database import make_engine, make_sessions, transaction
from jobs.errors import JobError
from jobs.ids import new_id
from jobs.repository import (
    ClaimRepository,
    JobRepository,
    Outlook,
    QueueRepository,
    Quotas,
    TenantRepository,
)
from jobs.settings import Settings
from jobs.spec import JobSpec
from jobs.tables import Job
from tests.services.postgresql import PostgreSQL, postgresql

SPEC = JobSpec.model_validate({"mode": "analyze", "model": {"uri": "hf://org/name"}})
STUB_ERROR = JobError(code="internal", message="a stub ran", phase=None, attempt=1)
TENANTS = ("alpha", "beta", "gamma")
PROCESSES = 5
SCHEDULER_SECONDS = 0.5
GOAL = 0.95
WINDOW_SECONDS = 10.0
console = Console(width=120)


@dataclass(frozen=True)
class Attempt:
    """A job that was held, in seconds since all workers began."""

    tenant: str
    start: float
    end: float


def main(
    queued: Annotated[str, typer.Option(help="Jobs of the three tenants.")] = "10000,500,5",
    contended: Annotated[
        str, typer.Option(help="The same, so that all wait for as long as is measured.")
    ] = "4000,4000,4000",
    seconds: Annotated[float, typer.Option(help="How long each row is measured.")] = 30.0,
    workers: Annotated[int, typer.Option(help="Workers at once.")] = 50,
) -> None:
    """Print shares, times to the first start, the rate of claims and what they cost, then the cost of a position."""
    rows = [(queued, (1, 1, 1)), (contended, (1, 1, 1)), (contended, (1, 2, 4))]
    table = Table(
        "queued", "weights", "worker seconds while all wait", "least Jain in a window", "first start s",
        "jobs a second", "database CPU ms a job", title=f"{workers} workers, {seconds:g} s a row",
        caption=f"goal: Jain {GOAL} or more in every window of {WINDOW_SECONDS:g} s, over those who wait",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fairness-") as name:
        # The database server runs as a separate user and must reach its folder.
        Path(name).chmod(0o755)
        with postgresql(Path(name) / "postgresql") as server:
            for counts, weights in rows:
                by_tenant = dict(zip(TENANTS, map(int, counts.split(",")), strict=True))
                table.add_row(counts, ":".join(map(str, weights)), *_row(server, by_tenant, weights, seconds, workers))
            console.print(table)
            _positions(server, dict(zip(TENANTS, map(int, queued.split(",")), strict=True)))


def _row(
    server: PostgreSQL, queued: dict[str, int], weights: Sequence[float], seconds: float, workers: int
) -> Iterator[str]:
    url = server.database()
    with _sessions(url) as sessions:
        for tenant, weight in zip(TENANTS, weights, strict=True):
            with transaction(sessions) as session:
                TenantRepository(session).create(tenant, Quotas(weight=weight))
            _queue(sessions, tenant, queued[tenant])
        before = cpu_seconds(server.processes)
        attempts = _run(url, sessions, seconds, workers)
        spent = cpu_seconds(server.processes) - before
    waits_until = {tenant: _last_start(attempts, tenant, queued[tenant], seconds) for tenant in TENANTS}
    until = min(waits_until.values())
    used = _used(attempts, 0, until)
    total = sum(used.values()) or 1.0
    yield " / ".join(f"{used[tenant] / total:.1%}" for tenant in TENANTS) + f" ({until:.1f} s)"
    windows = []
    for end in itertools.takewhile(lambda end: end <= seconds, itertools.count(WINDOW_SECONDS, WINDOW_SECONDS)):
        waiting = [i for i, tenant in enumerate(TENANTS) if waits_until[tenant] >= end]
        if len(waiting) > 1:
            used = _used(attempts, end - WINDOW_SECONDS, end)
            windows.append(_jain([used[TENANTS[i]] / weights[i] for i in waiting]))
    yield f"{min(windows):.3f} of {len(windows)}"
    firsts = (min((each.start for each in attempts if each.tenant == tenant), default=seconds) for tenant in TENANTS)
    yield " / ".join(f"{first:.2f}" for first in firsts)
    yield f"{len(attempts) / seconds:.0f}"
    yield f"{1000 * spent / len(attempts):.1f}"


def _last_start(attempts: Sequence[Attempt], tenant: str, queued: int, seconds: float) -> float:
    """Until when the tenant had jobs that waited."""
    starts = [each.start for each in attempts if each.tenant == tenant]
    return max(starts) if len(starts) == queued else seconds


def _used(attempts: Sequence[Attempt], begin: float, end: float) -> dict[str, float]:
    """The worker seconds of each tenant between two times."""
    used = dict.fromkeys(TENANTS, 0.0)
    for each in attempts:
        used[each.tenant] += max(0.0, min(each.end, end) - max(each.start, begin))
    return used


def _jain(shares: Sequence[float]) -> float:
    """1 where all shares are alike, a third where one of three has all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def _queue(sessions: sessionmaker[Session], tenant: str, count: int) -> list[str]:
    """Jobs as a submission writes them, the first one copied."""
    with transaction(sessions) as session:
        first = JobRepository(session).submit(tenant, SPEC, max_attempts=3).id
        written = session.scalars(select(Job).where(Job.id == first)).one()
        columns = {column.name: getattr(written, column.name) for column in Job.__table__.columns}
        ids = [new_id("job") for _ in range(count - 1)]
        if ids:
            session.execute(insert(Job), [columns | {"id": each} for each in ids])
    return [first, *ids]


@contextmanager
def _sessions(url: str) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(Settings(database_url=url))
    yield make_sessions(engine)
    engine.dispose()


def _run(url: str, sessions: sessionmaker[Session], seconds: float, workers: int) -> list[Attempt]:
    """All that the workers have done in so many seconds, with a scheduler beside them."""
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    ready = context.Barrier(PROCESSES + 1)
    processes = [
        context.Process(target=_work, args=(url, seconds, workers // PROCESSES, ready, done)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    ready.wait()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(SCHEDULER_SECONDS)
        with transaction(sessions) as session:
            QueueRepository(session).advance()
    attempts = [each for _ in processes for each in done.get()]
    for process in processes:
        process.join()
    return attempts


def _work(
    url: str, seconds: float, workers: int, ready: threading.Barrier, done: "multiprocessing.Queue[list[Attempt]]"
) -> None:
    attempts: list[Attempt] = []
    with _sessions(url) as sessions:
        together = threading.Barrier(workers + 1)

        def worker() -> None:
            # Connecting takes longer than a claim.
            with transaction(sessions) as session:
                Outlook.read(session, "default")
                together.wait()
            together.wait()
            while (start := time.monotonic() - begin) < seconds:
                with transaction(sessions) as session:
                    claim = ClaimRepository(session).claim_next(worker="stub", gpu_class="default", lease_seconds=600)
                if claim is None:
                    time.sleep(0.1)
                    continue
                start = time.monotonic() - begin
                time.sleep(random.uniform(0.03, 0.09))
                with transaction(sessions) as session:
                    ClaimRepository(session).fail(claim.job_id, claim.fence, STUB_ERROR)
                attempts.append(Attempt(claim.tenant, start, time.monotonic() - begin))

        threads = [threading.Thread(target=worker) for _ in range(workers)]
        for thread in threads:
            thread.start()
        together.wait()
        ready.wait()
        begin = time.monotonic()
        together.wait()
        for thread in threads:
            thread.join()
    done.put(attempts)


def _positions(server: PostgreSQL, queued: dict[str, int], rounds: int = 100) -> None:
    """What it costs to say where a job stands that has all others of its tenant before it."""
    with _sessions(server.database()) as sessions:
        last = {tenant: _queue(sessions, tenant, count)[-1] for tenant, count in queued.items()}
        took: dict[str, float] = {}
        actions: dict[str, Callable[[Session], object]] = {
            "one job of `alpha`, without its rank": lambda session: JobRepository(session).get("alpha", last["alpha"]),
            "the same with its rank, the last one": lambda session: JobRepository(session).get_ranked(
                "alpha", last["alpha"]
            ),
            "the same with its rank, the last of `gamma`": lambda session: JobRepository(session).get_ranked(
                "gamma", last["gamma"]
            ),
            "how the class stands, at most once in 2 s": lambda session: Outlook.read(session, "default"),
            "whose turn it is and a claim": lambda session: ClaimRepository(session).claim_next(
                worker="stub", gpu_class="default", lease_seconds=600
            ),
        }
        for name, action in actions.items():
            begin = time.perf_counter()
            for _ in range(rounds):
                with transaction(sessions) as session:
                    action(session)
            took[name] = (time.perf_counter() - begin) / rounds
    table = Table("with that many jobs waiting", "ms", title="what is asked for one by one")
    for name, each in took.items():
        table.add_row(name, f"{1000 * each:.1f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)

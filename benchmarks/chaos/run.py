"""One run: start the service, inject random faults while jobs are submitted, heal them, wait, and check."""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from sqlalchemy import func, select

from benchmarks.chaos.faults import Faults, Redis
from benchmarks.chaos.invariants import restart_seconds, violations
from benchmarks.chaos.load import Load
from jobs.artifacts import open_store
from jobs.database import make_engine
from jobs.states import TERMINAL
from jobs.tables import Job
from tests.services.balancer import balancer
from tests.services.faulty_proxy import faulty_proxy
from tests.services.postgresql import postgresql
from tests.services.processes import free_port
from tests.services.receiver import receiver
from tests.services.s3 import s3
from tests.services.stack import LEASE_SECONDS, Stack
from tests.worker.tiny_model import write_text, write_tiny_model
from worker.celery_app import make_app

PAUSE_SECONDS = (0.5, 3.0)
HEALING_SECONDS = 600
ATTEMPTS = 6


@dataclass
class Outcome:
    """`violations` are by invariant; `restarts` are seconds from a requeue to the next start."""

    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    restarts: list[float] = field(default_factory=list)
    webhooks: int = 0
    violations: dict[str, list[str]] = field(default_factory=dict)


def run(directory: Path, seconds: float, seed: int, tell: Callable[[str], None]) -> Outcome:
    """Random faults for `seconds`; everything is started below `directory`, listens on loopback, and is ended."""
    models = directory / "models"
    write_tiny_model(models / "model")
    write_text(models / "text.txt")
    for name in ("postgresql", "s3", "redis", "stack", "balancer"):
        (directory / name).mkdir()
    outcome = Outcome()
    with (
        postgresql(directory / "postgresql") as database,
        s3(directory / "s3") as objects,
        faulty_proxy(objects.port) as proxy,
        receiver() as hook,
        ExitStack() as ended,
    ):
        port = free_port()
        redis = Redis(directory / "redis", port)
        stack = Stack(
            directory / "stack",
            {
                "database_url": database.database(),
                "broker_url": f"redis://127.0.0.1:{port}/0",
                "artifact_url": f"{objects.url}/chaos",
                "artifact_options": objects.through(proxy.port).options,
                "artifact_timeout_seconds": 5.0,
                "database_timeout_seconds": 5.0,
                "model_roots": [str(models)],
                "max_attempts": ATTEMPTS,
                "sweep_after_seconds": 2 * LEASE_SECONDS,
                "egress_allowed_networks": ["127.0.0.0/8"],
            },
        )
        settings = stack.read_settings()
        engine = make_engine(settings)
        try:
            faults = Faults(stack, database, redis, proxy, make_app(settings), seed)
            url = f"http://127.0.0.1:{ended.enter_context(balancer(directory / 'balancer', faults.api_ports))}"
            httpx.post(f"{url}/v1/webhook-endpoints", json={"url": hook.url}).raise_for_status()
            load = Load(url, models, seed)
            load.start()
            begin, pauses = time.monotonic(), random.Random(seed)
            while time.monotonic() - begin < seconds:
                time.sleep(pauses.uniform(*PAUSE_SECONDS))
                kind = faults.do_one(list(load.accepted.values()))
                tell(f"{time.monotonic() - begin:5.0f} s  {kind}; {len(load.accepted)} jobs")
            outcome.seconds, outcome.faults = time.monotonic() - begin, faults.counts
            load.stopping.set()
            load.join()
            tell("everything is healed; waiting for the jobs")
            give_up = time.monotonic() + HEALING_SECONDS
            unswept = select(func.count()).select_from(Job).where(Job.swept_at.is_(None))
            open_jobs = select(func.count()).select_from(Job).where(Job.state.not_in(TERMINAL))
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                while connection.scalar(open_jobs) or connection.scalar(unswept):
                    if time.monotonic() > give_up:
                        break
                    time.sleep(1)
                outcome.violations = violations(connection, open_store(settings), load.accepted)
                outcome.violations["promises broken on the spot"] = load.broken
                outcome.restarts = restart_seconds(connection)
                outcome.ends = Counter(connection.scalars(select(Job.state)))
            outcome.webhooks = len({headers["webhook-id"] for headers, _ in hook.received})
        finally:
            engine.dispose()
            stack.end()
            redis.kill()
    return outcome

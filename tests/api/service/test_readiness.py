"""Whether the service is ready, and what it says when a part of it is in trouble."""

import httpx
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.clock import later
from jobs.database import transaction
from jobs.repository import BROKER, SCHEDULER, HealthRepository
from jobs.tables import Health


def readiness(client: httpx.Client) -> tuple[int, str, dict[str, str]]:
    answer = client.get("/readyz")
    return answer.status_code, answer.json()["status"], answer.json()["troubles"]


def test_it_is_ready_while_every_part_says_so(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    never = "was never heard of"
    assert readiness(client) == (200, "degraded", {SCHEDULER: never, BROKER: never})
    with transaction(sessions) as session:
        HealthRepository(session).record(SCHEDULER, None)
        HealthRepository(session).record(BROKER, None)
    assert readiness(client) == (200, "ok", {})
    with transaction(sessions) as session:
        HealthRepository(session).record(BROKER, "does not answer")
    assert readiness(client) == (200, "degraded", {BROKER: "does not answer"})
    with transaction(sessions) as session:
        HealthRepository(session).record(BROKER, None)
        session.execute(update(Health).where(Health.part == SCHEDULER).values(seen_at=later(-31)))
    assert readiness(client) == (200, "degraded", {SCHEDULER: "was not heard of for 31 s"})

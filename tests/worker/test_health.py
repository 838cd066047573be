"""What the scheduler says of the broker, over a real one and one that is gone."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import open_store
from jobs.database import transaction
from jobs.repository import BROKER, HealthRepository
from jobs.settings import Settings
from worker.celery_app import make_app
from worker.scheduler import Scheduler


@pytest.mark.parametrize("kind", ["redis", "folder", "gone"])
def test_the_broker_is_in_trouble_when_it_does_not_answer(
    kind: str, redis_url: str, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    urls = {"redis": redis_url, "folder": f"filesystem://{tmp_path}", "gone": "redis://127.0.0.1:1/0"}
    settings = Settings(broker_url=urls[kind], artifact_url=(tmp_path / "artifacts").as_uri())
    Scheduler(settings, sessions, open_store(settings), make_app(settings)).record_health()
    with transaction(sessions) as session:
        troubles = HealthRepository(session).troubles()
    if kind == "gone":
        assert list(troubles) == [BROKER]
        assert "does not answer" in troubles[BROKER]
        assert "127.0.0.1" not in troubles[BROKER]
    else:
        assert troubles == {}

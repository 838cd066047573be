"""Many who ask for metrics and readiness at once cost the database what one does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction

CLIENTS = 60


@contextmanager
def counting() -> Iterator[list[str]]:
    """Every statement that is sent to any database meanwhile."""
    statements: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
def test_all_who_ask_within_seconds_share_one_answer(
    client: httpx.Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a first connection asks of its database is not counted.
    client.get("/v1/jobs")
    monkeypatch.setattr("api.service.shared.FRESH_SECONDS", 60.0)
    with counting() as together, ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _: httpx.get(client.base_url.join(path), timeout=20), range(CLIENTS)))
    monkeypatch.setattr("api.service.shared.FRESH_SECONDS", 0.0)
    with counting() as alone:
        client.get(path)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(together) == len(alone) > 0


def test_an_error_is_not_kept(
    client: httpx.Client, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = client.base_url.join("/readyz")
    monkeypatch.setattr("api.service.shared.FRESH_SECONDS", 60.0)
    with transaction(sessions) as session:
        session.execute(text("ALTER TABLE health RENAME TO gone"))
    assert httpx.get(url).status_code >= 500
    with transaction(sessions) as session:
        session.execute(text("ALTER TABLE gone RENAME TO health"))
    assert httpx.get(url).status_code == 200

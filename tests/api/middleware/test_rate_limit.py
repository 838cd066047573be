"""Rate limits: per key, else per address, shown in every answer."""

import re
from pathlib import Path

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import migrate
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from tests.api.conftest import serving
from tests.api.keyed import assert_problem, make_key, with_keys

PER_MINUTE = 5


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One way of running it is enough: no database decides this."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url)
    artifacts = (tmp_path / "artifacts").as_uri()
    return with_keys(Settings(database_url=url, artifact_url=artifacts, requests_per_minute=PER_MINUTE))


def remaining(response: httpx.Response) -> int:
    assert response.headers["RateLimit-Policy"] == f'"default";q={PER_MINUTE};w=60'
    fields = re.fullmatch(r'"default";r=(\d+);t=(\d+)', response.headers["RateLimit"])
    assert fields is not None
    assert 1 <= int(fields[2]) <= 60
    return int(fields[1])


def assert_runs_out(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    for left in reversed(range(PER_MINUTE)):
        response = client.get("/v1/jobs", headers=headers)
        assert (response.status_code, remaining(response)) == (status, left)
    response = client.get("/v1/jobs", headers=headers)
    assert_problem(response, 429)
    assert (response.json()["code"], remaining(response)) == ("rate_limited", 0)
    assert 1 <= int(response.headers["Retry-After"]) <= 60


def test_every_key_has_a_limit_of_its_own(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    first, second = (make_key(sessions, "a", Scope.JOBS_READ) for _ in range(2))
    assert_runs_out(client, first, 200)
    assert_runs_out(client, second, 200)


def test_guessing_keys_has_a_limit_too(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    assert_runs_out(client, {"Authorization": "Bearer sglp_guess"}, 401)
    assert client.get("/v1/jobs", headers=make_key(sessions, "a", Scope.JOBS_READ)).status_code == 200


def test_without_keys_an_address_has_the_limit(settings: Settings) -> None:
    with serving(settings.model_copy(update={"require_keys": False})) as client:
        assert_runs_out(client, {}, 200)


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/openapi.json"])
def test_what_needs_no_key_counts_for_its_address(client: httpx.Client, path: str) -> None:
    for left in reversed(range(PER_MINUTE)):
        response = client.get(path)
        assert (response.status_code, remaining(response)) == (200, left)
    response = client.get(path)
    assert_problem(response, 429)
    assert response.json()["code"] == "rate_limited"


def test_whether_it_lives_is_not_counted(client: httpx.Client) -> None:
    answers = [client.get("/livez") for _ in range(PER_MINUTE + 2)]
    assert {answer.status_code for answer in answers} == {200}
    assert "RateLimit" not in answers[0].headers

"""Webhook secrets lie sealed in the database, keys can be changed, and what was plain before goes on working."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import WebhookRepository
from jobs.security.signing_secrets import LostSecretKey, NoSecretKey, Sealer, make_sealer, new_secret
from jobs.settings import Settings

POSTGRESQL = "postgresql+psycopg://sglp@db/sglp"


def key() -> str:
    return Fernet.generate_key().decode()


def run_migration(url: str, *keys: str) -> subprocess.CompletedProcess[str]:
    listed = "[" + ", ".join(f'"{each}"' for each in keys) + "]"
    environment = {**os.environ, "SGLP_DATABASE_URL": url, "SGLP_SECRET_KEYS": listed}
    command = [sys.executable, "-m", "jobs", "migrate"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def stored(sessions: sessionmaker[Session]) -> list[tuple[str, str | None]]:
    with transaction(sessions) as session:
        return [(each.secret, each.previous_secret) for each in WebhookRepository(session).list("default")]


def test_what_is_sealed_is_opened_with_any_key_and_renewed_with_the_first() -> None:
    old, new, secret = key(), key(), new_secret()
    sealed = Sealer([old]).seal(secret)
    assert secret not in sealed
    assert Sealer([new, old]).open(sealed) == secret
    renewed = Sealer([new, old]).renew(sealed)
    assert Sealer([new]).open(renewed) == secret
    assert Sealer([new, old]).renew(renewed) == renewed
    for lost in (Sealer([new]), Sealer([])):
        with pytest.raises(LostSecretKey):
            lost.open(sealed)


def test_a_secret_from_before_is_read_as_it_is_and_sealed_when_renewed() -> None:
    secret = new_secret()
    assert Sealer([]).open(secret) == Sealer([key()]).open(secret) == secret
    sealer = Sealer([key()])
    assert sealer.renew(secret) != secret
    assert sealer.open(sealer.renew(secret)) == secret


def test_without_a_key_nothing_is_sealed() -> None:
    with pytest.raises(NoSecretKey):
        make_sealer(Settings(database_url=POSTGRESQL)).seal(new_secret())


def test_beside_a_sqlite_database_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'sglp.db'}")
    with ThreadPoolExecutor(8) as pool:
        sealers = list(pool.map(make_sealer, [settings] * 8))
    assert [path.name for path in tmp_path.iterdir()] == ["sglp.db.key"]
    assert stat.S_IMODE((tmp_path / "sglp.db.key").stat().st_mode) == 0o600
    sealed = sealers[0].seal(new_secret())
    assert len({sealer.open(sealed) for sealer in [*sealers, make_sealer(settings)]}) == 1


def test_a_key_that_is_set_later_seals_and_the_file_still_opens(tmp_path: Path) -> None:
    url, secret_key, secret = f"sqlite:///{tmp_path / 'sglp.db'}", key(), new_secret()
    sealed = make_sealer(Settings(database_url=url)).seal(secret)
    later = make_sealer(Settings(database_url=url, secret_keys=(secret_key,)))
    assert later.open(sealed) == secret
    assert Sealer([secret_key]).open(later.renew(sealed)) == secret


def test_keys_are_taken_in_both_alphabets_and_nothing_else_is_a_key() -> None:
    plain = "+/" * 21 + "8="
    (read,) = Settings(secret_keys=(plain,)).secret_keys
    assert Sealer([read]).open(Sealer([plain.replace("+", "-").replace("/", "_")]).seal("x")) == "x"
    for wrong in ("change-me", "", plain[4:]):
        with pytest.raises(ValidationError, match="32 bytes"):
            Settings(secret_keys=(wrong,))


def test_migrating_seals_what_is_plain_and_changes_keys(database_url: str, sessions: sessionmaker[Session]) -> None:
    first, second, current, previous = key(), key(), new_secret(), new_secret()
    with transaction(sessions) as session:
        webhooks = WebhookRepository(session)
        endpoint = webhooks.create("default", "https://example.com/", ["job.failed"], previous)
        webhooks.rotate("default", endpoint.id, current)
    run_migration(database_url, first)
    sealed = stored(sessions)
    assert [tuple(map(Sealer([first]).open, each)) for each in sealed] == [(current, previous)]
    assert current not in str(sealed)
    assert previous not in str(sealed)
    run_migration(database_url, second, first)
    assert [tuple(map(Sealer([second]).open, each)) for each in stored(sessions)] == [(current, previous)]


def test_migrating_leaves_what_it_cannot_open_and_says_so(database_url: str, sessions: sessionmaker[Session]) -> None:
    lost, plain = Sealer([key()]).seal(new_secret()), new_secret()
    with transaction(sessions) as session:
        for secret in (lost, plain):
            WebhookRepository(session).create("default", "https://example.com/", ["job.failed"], secret)
    secret_key = key()
    assert "SGLP_SECRET_KEYS" in run_migration(database_url, secret_key).stderr
    assert stored(sessions)[0] == (lost, None)
    assert Sealer([secret_key]).open(stored(sessions)[1][0]) == plain

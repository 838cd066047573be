"""API keys for tests of a service that asks for them."""

import httpx
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import KeyRepository, TenantRepository
from jobs.security.api_keys import Scope
from jobs.settings import Settings


def with_keys(settings: Settings) -> Settings:
    """The same service, only that it asks for keys."""
    return settings.model_copy(update={"require_keys": True, "allowed_hosts": ("*",)})


def make_key(
    sessions: sessionmaker[Session], tenant: str, *scopes: Scope, expires_in_seconds: int | None = None
) -> dict[str, str]:
    """The header of a new key."""
    with transaction(sessions) as session:
        TenantRepository(session).ensure(tenant)
        key, _ = KeyRepository(session).create(tenant, "test", scopes, expires_in_seconds=expires_in_seconds)
    return {"Authorization": f"Bearer {key}"}


def key_of(header: dict[str, str]) -> str:
    return header["Authorization"].removeprefix("Bearer ")


def key_id_of(header: dict[str, str]) -> str:
    return f"key_{key_of(header).split('_')[1]}"


def assert_problem(response: httpx.Response, status: int) -> None:
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")

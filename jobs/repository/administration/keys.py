"""API keys in the database: made, checked at every request, listed and revoked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hmac import compare_digest

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.security.api_keys import Presented, Scope, make_key
from jobs.tables import ApiKey

# `last_used_at` is written at most this often.
LAST_USED_SECONDS = 60


@dataclass(frozen=True)
class Caller:
    """Who is asking, and what for. `key_id` is None where the service needs no keys."""

    tenant: str
    key_id: str | None
    scopes: frozenset[Scope]


class KeyRepository:
    """The keys of all tenants; only the service itself and its administrators come here."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self, tenant: str, name: str, scopes: Iterable[Scope], *, expires_in_seconds: int | None
    ) -> tuple[str, ApiKey]:
        """A new key of a tenant that there is: the key itself, which nothing can show again, and its row."""
        key, kept = make_key()
        row = ApiKey(
            id=kept.key_id,
            tenant=tenant,
            name=name,
            secret_sha256=kept.secret_sha256,
            scopes=sorted(set(scopes)),
            created_at=now(),
            expires_at=None if expires_in_seconds is None else later(expires_in_seconds),
        )
        self._session.add(row)
        self._session.flush()
        self._session.refresh(row)
        return key, row

    def check(self, presented: Presented) -> Caller | None:
        """Whose key this is; None for one that there is not, with another secret, expired or revoked.

        `last_used_at` is updated at most once a minute, so that most requests do not write.
        """
        last_use_is_old = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= later(-LAST_USED_SECONDS))
        holds = [ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now())]
        chosen = select(ApiKey, last_use_is_old).where(ApiKey.id == presented.key_id, *holds)
        row = self._session.execute(chosen).one_or_none()
        if row is None or not compare_digest(row[0].secret_sha256, presented.secret_sha256):
            return None
        key, update_last_use = row
        if update_last_use:
            self._session.execute(
                update(ApiKey)
                .where(ApiKey.id == key.id, last_use_is_old)
                .values(last_used_at=now())
                .execution_options(synchronize_session=False)
            )
        return Caller(key.tenant, key.id, frozenset(map(Scope, key.scopes)))

    def page(self, *, limit: int, before: str | None, tenant: str | None) -> Sequence[ApiKey]:
        """Up to `limit` keys, newest first, from those older than the key `before`."""
        chosen = select(ApiKey).order_by(ApiKey.id.desc()).limit(limit)
        if before is not None:
            chosen = chosen.where(ApiKey.id < before)
        if tenant is not None:
            chosen = chosen.where(ApiKey.tenant == tenant)
        return self._session.scalars(chosen).all()

    def revoke(self, key_id: str) -> bool:
        """End a key for good; one that was revoked before stays as it is. False where there is no such key."""
        self._session.execute(
            update(ApiKey)
            .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
            .values(revoked_at=now())
            .execution_options(synchronize_session=False)
        )
        return self._session.scalar(select(ApiKey.id).where(ApiKey.id == key_id)) is not None

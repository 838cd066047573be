"""Making jobs so that asking twice makes one: a key is written in the transaction of its job."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.ids import new_id
from jobs.repository.jobs import JobRepository
from jobs.spec import JobSpec
from jobs.tables import IdempotencyKey, Job

KEY_SECONDS = 24 * 3600
INSERT: dict[str, Callable[[type[IdempotencyKey]], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


class KeyReused(Exception):
    """The key was used for another request within the last 24 hours."""


class JobDeleted(Exception):
    """The job that the key has made is not there any more."""


class SubmissionRepository:
    """New jobs of a tenant. `fingerprint` stands for everything that was asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def earlier(self, tenant: str, key: str, fingerprint: str) -> Job | None:
        """The job that this key has made within the last 24 hours. Raises `KeyReused` and `JobDeleted`."""
        mine = (IdempotencyKey.tenant == tenant, IdempotencyKey.key == key)
        holds = IdempotencyKey.created_at > later(-KEY_SECONDS)
        found = self._session.scalars(select(IdempotencyKey).where(*mine, holds)).one_or_none()
        return None if found is None else self._made(tenant, found, fingerprint)

    def submit(
        self,
        tenant: str,
        spec: JobSpec,
        *,
        max_attempts: int,
        key: str | None = None,
        fingerprint: str = "",
        retry_of: str | None = None,
        traceparent: str | None = None,
    ) -> tuple[Job, bool]:
        """The job, and whether it was there before: the one that this key has made within the last 24 hours.

        Raises `KeyReused`, `JobDeleted`, `QuotaExceeded` and `UnusableUpload`.
        """
        job_id = new_id("job")
        earlier = None if key is None else self._claim(tenant, key, fingerprint, job_id)
        if earlier is not None:
            return self._made(tenant, earlier, fingerprint), True
        jobs = JobRepository(self._session)
        job = jobs.submit(
            tenant, spec, max_attempts=max_attempts, job_id=job_id, retry_of=retry_of, traceparent=traceparent
        )
        return job, False

    def _made(self, tenant: str, earlier: IdempotencyKey, fingerprint: str) -> Job:
        if earlier.fingerprint != fingerprint:
            raise KeyReused
        job = JobRepository(self._session).get(tenant, earlier.job_id)
        if job is None:
            raise JobDeleted
        return job

    def _claim(self, tenant: str, key: str, fingerprint: str, job_id: str) -> IdempotencyKey | None:
        """Take the key, or return who has it. A transaction that is about to take it too is waited for."""
        mine = (IdempotencyKey.tenant == tenant, IdempotencyKey.key == key)
        self._session.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.created_at <= later(-KEY_SECONDS)))
        insert = INSERT[self._session.get_bind().dialect.name](IdempotencyKey)
        row = insert.values(tenant=tenant, key=key, fingerprint=fingerprint, job_id=job_id, created_at=now())
        taken = self._session.execute(row.on_conflict_do_nothing().returning(IdempotencyKey.job_id)).scalar()
        return None if taken else self._session.scalars(select(IdempotencyKey).where(*mine)).one()

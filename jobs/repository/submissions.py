"""Making jobs so that asking twice makes one: a key is written in the transaction of its job."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.ids import new_id
from jobs.repository.jobs import JobRepository, Origin
from jobs.spec import JobSpec
from jobs.tables import IdempotencyKey, Job

KEY_SECONDS = 24 * 3600
INSERT: dict[str, Callable[[type[IdempotencyKey]], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


class KeyReused(Exception):
    """The key was used for another request within the last 24 hours."""


class JobDeleted(Exception):
    """The job that the key has made is not there any more."""


@dataclass(frozen=True)
class IdempotentRequest:
    """A request under an idempotency key; `fingerprint` is a hash of everything that it asks for."""

    key: str
    fingerprint: str


class SubmissionRepository:
    """New jobs of a tenant."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def earlier(self, tenant: str, request: IdempotentRequest) -> Job | None:
        """The job that this request has made within the last 24 hours. Raises `KeyReused` and `JobDeleted`."""
        mine = (IdempotencyKey.tenant == tenant, IdempotencyKey.key == request.key)
        holds = IdempotencyKey.created_at > later(-KEY_SECONDS)
        row = self._session.scalars(select(IdempotencyKey).where(*mine, holds)).one_or_none()
        return None if row is None else self._job_of(row, request)

    def submit(
        self,
        tenant: str,
        spec: JobSpec,
        request: IdempotentRequest | None,
        *,
        max_attempts: int,
        max_queued: int,
        origin: Origin = Origin(),
    ) -> tuple[Job, bool]:
        """The job, and whether the same request had already made it within the last 24 hours.

        Raises `KeyReused`, `JobDeleted`, `QuotaExceeded`, `TenantDeleting` and `UnusableUpload`.
        """
        job_id = new_id("job")
        if request is not None:
            earlier = self._claim(tenant, request, job_id)
            if earlier is not None:
                return self._job_of(earlier, request), True
        jobs = JobRepository(self._session)
        job = jobs.submit(tenant, spec, max_attempts=max_attempts, max_queued=max_queued, job_id=job_id, origin=origin)
        return job, False

    def _job_of(self, row: IdempotencyKey, request: IdempotentRequest) -> Job:
        if row.fingerprint != request.fingerprint:
            raise KeyReused
        job = JobRepository(self._session).get(row.tenant, row.job_id)
        if job is None:
            raise JobDeleted
        return job

    def _claim(self, tenant: str, request: IdempotentRequest, job_id: str) -> IdempotencyKey | None:
        """Write the key for this job, or return the row that has it. Waits for a transaction that is writing it too."""
        mine = (IdempotencyKey.tenant == tenant, IdempotencyKey.key == request.key)
        self._session.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.created_at <= later(-KEY_SECONDS)))
        insert = INSERT[self._session.get_bind().dialect.name](IdempotencyKey)
        row = insert.values(tenant=tenant, job_id=job_id, created_at=now(), **vars(request))
        taken = self._session.execute(row.on_conflict_do_nothing().returning(IdempotencyKey.job_id)).scalar()
        return None if taken else self._session.scalars(select(IdempotencyKey).where(*mine)).one()

"""What the scheduler does to jobs. Several schedulers may do all of it at once, any number of times."""

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.errors import JobError
from jobs.locations.uploads import MOST_PRESIGN_SECONDS
from jobs.repository.counters import LEASES_EXPIRED, increment
from jobs.repository.submissions import KEY_SECONDS
from jobs.repository.transitions import fail, move, requeue
from jobs.repository.uploads import OPEN_SECONDS, in_use
from jobs.states import TERMINAL, State
from jobs.tables import Artifact, DeletedJob, IdempotencyKey, Job, Upload, UploadFile


class UpkeepRepository:
    """Duties over the jobs of all tenants."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def reap(self, limit: int, backoff_seconds: float) -> list[tuple[str, State]]:
        """Take jobs from workers whose lease has run out: back to the queue after a wait that doubles with every
        attempt, or to their end. Returns id and new state."""
        expired = (
            select(Job.id, Job.fence, Job.attempt, Job.max_attempts, Job.state, Job.phase)
            .where(Job.lease_until < now())
            .order_by(Job.lease_until)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        reaped = []
        for row in self._session.execute(expired).all():
            guards = [Job.id == row.id, Job.fence == row.fence]
            if row.state == State.CANCELLING:
                job = move(self._session, State.CANCELLED, guards)
            elif row.attempt < row.max_attempts:
                wait_seconds = backoff_seconds * 2 ** (row.attempt - 1)
                job = requeue(self._session, guards, "lease_expired", wait_seconds, attempt=row.attempt)
            else:
                message = f"the workers of all {row.attempt} attempts died or were cut off"
                error = JobError(code="worker_lost", message=message, phase=row.phase, attempt=row.attempt)
                job = fail(self._session, guards, error)
            if job is not None:
                increment(self._session, LEASES_EXPIRED, job.state)
                reaped.append((job.id, State(job.state)))
        return reaped

    def unfinished(self, ids: Sequence[str]) -> set[str]:
        """Those of these jobs that have not ended."""
        return set(self._session.scalars(select(Job.id).where(Job.id.in_(ids), Job.state.not_in(TERMINAL))))

    def expire_queued(self, limit: int) -> int:
        """End waiting jobs whose deadline has passed; returns how many."""
        late = (
            select(Job.id, Job.attempt, Job.started_at)
            .where(Job.state == State.QUEUED, Job.deadline_at <= now())
            .limit(limit)
        )
        ended = 0
        for job_id, attempt, started_at in self._session.execute(late.with_for_update(skip_locked=True)).all():
            if started_at is None:
                code, message = "queue_deadline_exceeded", "no worker has taken the job within its deadline_seconds"
            else:
                code, message = "deadline_exceeded", "the job did not end within its deadline_seconds"
            error = JobError(code=code, message=message, phase=None, attempt=attempt)
            ended += fail(self._session, [Job.id == job_id, Job.state == State.QUEUED], error) is not None
        return ended

    def forget_keys(self) -> int:
        """Delete the idempotency keys that have done their duty; returns how many."""
        old = delete(IdempotencyKey).where(IdempotencyKey.created_at <= later(-KEY_SECONDS))
        return len(self._session.execute(old.returning(IdempotencyKey.key)).all())

    def expired_artifacts(self, limit: int) -> Sequence[Artifact]:
        """Published files that are kept no longer and still lie in the store."""
        chosen = select(Artifact).where(Artifact.expires_at <= now(), Artifact.removed_at.is_(None))
        return self._session.scalars(chosen.order_by(Artifact.expires_at).limit(limit)).all()

    def mark_removed(self, artifacts: Sequence[Artifact]) -> None:
        """Note that the objects of these files are gone."""
        for artifact in artifacts:
            mine = (Artifact.job_id == artifact.job_id, Artifact.name == artifact.name)
            self._session.execute(update(Artifact).where(*mine).values(removed_at=now()))

    def expire_uploads(self, limit: int) -> int:
        """Delete uploads whose time is over and that no job reads any more; returns how many."""
        over = select(Upload.id).where(Upload.expires_at <= now(), ~in_use()).order_by(Upload.expires_at).limit(limit)
        ids = self._session.scalars(over.with_for_update(skip_locked=True)).all()
        # Asked once more now that they are locked: a job may have taken one between the look and the lock.
        gone = delete(Upload).where(Upload.id.in_(ids), ~in_use()).returning(Upload.id)
        return len(self._session.scalars(gone).all())

    def unknown_uploads(self, ids: Sequence[str]) -> set[str]:
        """Those of these uploads that are not there."""
        return set(ids) - set(self._session.scalars(select(Upload.id).where(Upload.id.in_(ids))))

    def recent_uploads(self) -> dict[str, dict[str, int]]:
        """The declared size of every file of the uploads that somebody may still hold an address for, by upload."""
        chosen = select(UploadFile).join(Upload).where(Upload.created_at > later(-OPEN_SECONDS - MOST_PRESIGN_SECONDS))
        sizes: dict[str, dict[str, int]] = {}
        for file in self._session.scalars(chosen):
            sizes.setdefault(file.upload_id, {})[file.name] = file.size_bytes
        return sizes

    def deleted_jobs(self, after_seconds: float, limit: int) -> Sequence[str]:
        """Jobs that were deleted so long ago and whose objects may still lie in the store."""
        chosen = select(DeletedJob.job_id).where(DeletedJob.created_at <= later(-after_seconds))
        return self._session.scalars(chosen.order_by(DeletedJob.created_at).limit(limit)).all()

    def forget_deleted_job(self, job_id: str) -> None:
        """Note that nothing of a deleted job is left."""
        self._session.execute(delete(DeletedJob).where(DeletedJob.job_id == job_id))

    def unswept(self, after_seconds: float, limit: int) -> Sequence[str]:
        """Jobs that ended so long ago and were not swept behind yet."""
        chosen = select(Job.id).where(
            Job.state.in_(TERMINAL), Job.swept_at.is_(None), Job.finished_at <= later(-after_seconds)
        )
        return self._session.scalars(chosen.order_by(Job.finished_at).limit(limit)).all()

    def published_keys(self, job_id: str) -> Sequence[str]:
        """Where the published files of a job lie in the artifact store."""
        return self._session.scalars(select(Artifact.key).where(Artifact.job_id == job_id)).all()

    def mark_swept(self, job_id: str) -> None:
        """Note that nothing unpublished of this job is left."""
        self._session.execute(update(Job).where(Job.id == job_id).values(swept_at=now()))

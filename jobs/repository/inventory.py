"""What should lie in the artifact store, as the database says it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.locations.uploads import key_of
from jobs.states import TERMINAL
from jobs.tables import Artifact, DeletedJob, Job, Upload, UploadFile

ROWS = 1000


@dataclass(frozen=True)
class StoredFile:
    """An object that there must be."""

    key: str
    size_bytes: int
    sha256: str


class InventoryRepository:
    """Files of all tenants."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def published(self) -> Iterator[StoredFile]:
        """The published files of all jobs, but for those that were removed at their expiry."""
        chosen = select(Artifact.key, Artifact.size_bytes, Artifact.sha256).where(Artifact.removed_at.is_(None))
        for row in self._session.execute(chosen.execution_options(yield_per=ROWS)):
            yield StoredFile(*row)

    def uploaded(self) -> Iterator[StoredFile]:
        """The files of all uploads that are complete."""
        chosen = select(UploadFile).join(Upload).where(Upload.completed_at.is_not(None))
        for file in self._session.scalars(chosen.execution_options(yield_per=ROWS)):
            yield StoredFile(key_of(file.upload_id, file.name), file.size_bytes, file.sha256)

    def working_jobs(self, ids: Sequence[str]) -> set[str]:
        """Those of these jobs whose unpublished objects are used, or will be removed by the scheduler: jobs that have
        not ended, that it has not swept behind yet, and that were deleted a moment ago.
        """
        used = select(Job.id).where(Job.id.in_(ids), Job.state.not_in(TERMINAL) | Job.swept_at.is_(None))
        deleted = select(DeletedJob.job_id).where(DeletedJob.job_id.in_(ids))
        return {*self._session.scalars(used), *self._session.scalars(deleted)}

    def uploads(self, ids: Sequence[str]) -> set[str]:
        """Those of these uploads that there are."""
        return set(self._session.scalars(select(Upload.id).where(Upload.id.in_(ids))))

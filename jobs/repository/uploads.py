"""What tenants may do with their uploads, and how a job gets hold of them. Another tenant's upload does not exist."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.ids import new_id
from jobs.locations.uris import upload_id_of
from jobs.repository.quotas import check_stored_bytes
from jobs.spec import JobSpec
from jobs.states import TERMINAL
from jobs.tables import Job, JobUpload, Upload, UploadFile

OPEN_SECONDS = 24 * 3600


class UnusableUpload(Exception):
    """A job names an upload that its tenant does not have, or not as this; `pointer` is its place in the specification.

    `code` is the error code that a job would end with that finds it so.
    """

    def __init__(self, pointer: str, message: str) -> None:
        self.pointer = pointer
        self.code = missing_code(pointer)
        super().__init__(message)


@dataclass(frozen=True)
class DeclaredFile:
    """A file of an upload: what its object in the store must be."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredUpload:
    """A complete upload as a worker makes it local."""

    id: str
    name: str
    kind: str
    files: tuple[DeclaredFile, ...]


class UploadRepository:
    """Uploads as their tenant sees them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, tenant: str, name: str, kind: str, files: Sequence[DeclaredFile]) -> Upload:
        """Declare an upload; it goes again where it is not complete within `OPEN_SECONDS`.

        Its bytes count from now on. Raises `QuotaExceeded`, `TenantDeleting`.
        """
        check_stored_bytes(self._session, tenant, sum(file.size_bytes for file in files))
        upload = Upload(
            id=new_id("upload"), tenant=tenant, name=name, kind=kind, created_at=now(), expires_at=later(OPEN_SECONDS)
        )
        self._session.add(upload)
        self._session.flush()
        self._session.add_all(UploadFile(upload_id=upload.id, **vars(file)) for file in files)
        self._session.flush()
        self._session.refresh(upload)
        return upload

    def get(self, tenant: str, upload_id: str) -> Upload | None:
        """One upload that has not expired."""
        return self._session.scalars(select(Upload).where(*_kept(tenant), Upload.id == upload_id)).one_or_none()

    def page(self, tenant: str, *, limit: int, before: str | None) -> Sequence[Upload]:
        """Up to `limit` uploads, newest first, from those older than the upload `before`."""
        chosen = select(Upload).where(*_kept(tenant)).order_by(Upload.id.desc()).limit(limit)
        return self._session.scalars(chosen if before is None else chosen.where(Upload.id < before)).all()

    def files(self, tenant: str, upload_id: str) -> list[DeclaredFile]:
        """The files of an upload, by name."""
        chosen = select(UploadFile).join(Upload).where(*_kept(tenant), UploadFile.upload_id == upload_id)
        rows = self._session.scalars(chosen.order_by(UploadFile.name))
        return [DeclaredFile(row.name, row.size_bytes, row.sha256) for row in rows]

    def complete(self, tenant: str, upload_id: str, *, retention_days: float) -> Upload | None:
        """Let jobs read the upload, for so many days; 0 is for ever. One that is complete already stays as it is."""
        expires_at = later(retention_days * 86400) if retention_days else None
        opened = [*_kept(tenant), Upload.id == upload_id, Upload.completed_at.is_(None)]
        self._session.execute(update(Upload).where(*opened).values(completed_at=now(), expires_at=expires_at))
        return self._session.scalars(
            select(Upload).where(*_kept(tenant), Upload.id == upload_id).execution_options(populate_existing=True)
        ).one_or_none()

    def delete(self, tenant: str, upload_id: str) -> bool | None:
        """Delete an upload; False while a job that has not ended reads it, None without it."""
        owned = [*_kept(tenant), Upload.id == upload_id]
        # Locked first: a job that is being submitted takes a share of the lock, and is seen afterwards.
        if self._session.scalar(select(Upload.id).where(*owned).with_for_update()) is None:
            return None
        gone = delete(Upload).where(Upload.id == upload_id, Upload.tenant == tenant, ~in_use()).returning(Upload.id)
        return self._session.scalar(gone) is not None


def take_uploads(session: Session, tenant: str, job_id: str, spec: JobSpec) -> None:
    """Keep the uploads that a new job names until it has ended. Raises `UnusableUpload`."""
    taken = set()
    for pointer, uri in spec.uris().items():
        upload_id = upload_id_of(uri)
        if upload_id is None:
            continue
        owned = select(Upload).where(*_kept(tenant), Upload.id == upload_id)
        upload = session.scalar(owned.with_for_update(read=True))
        if upload is None:
            raise UnusableUpload(pointer, f"there is no upload {upload_id}")
        if upload.completed_at is None:
            raise UnusableUpload(pointer, f"{upload_id} is not complete")
        if upload.kind != required_kind(pointer):
            raise UnusableUpload(
                pointer, f"{upload_id} is a {upload.kind}, but this field needs a {required_kind(pointer)}"
            )
        if upload_id not in taken:
            session.add(JobUpload(job_id=job_id, upload_id=upload_id))
        taken.add(upload_id)
    session.flush()


def claimed_uploads(session: Session, tenant: str, spec: JobSpec) -> dict[str, StoredUpload]:
    """URI → upload of what the job names and its tenant has; whatever it lacks, the job must do without."""
    uploads = {}
    named = {uri: upload_id for uri in spec.uris().values() if (upload_id := upload_id_of(uri))}
    for uri, upload_id in named.items():
        chosen = (Upload.tenant == tenant, Upload.id == upload_id, Upload.completed_at.is_not(None))
        upload = session.scalar(select(Upload).where(*chosen))
        if upload is not None:
            rows = session.scalars(select(UploadFile).where(UploadFile.upload_id == upload.id))
            files = tuple(DeclaredFile(row.name, row.size_bytes, row.sha256) for row in rows)
            uploads[uri] = StoredUpload(upload.id, upload.name, upload.kind, files)
    return uploads


def in_use() -> ColumnElement[bool]:
    """Whether a job that has not ended reads the upload of the row."""
    return exists().where(JobUpload.upload_id == Upload.id, JobUpload.job_id == Job.id, Job.state.not_in(TERMINAL))


def required_kind(pointer: str) -> str:
    """The kind of upload that this place of a specification takes."""
    return "model" if pointer == "/model/uri" else "dataset"


def missing_code(pointer: str) -> str:
    """The error code of a job that misses what this place of its specification names."""
    return "model_not_found" if pointer == "/model/uri" else "bad_calibration"


def _kept(tenant: str) -> list[ColumnElement[bool]]:
    return [Upload.tenant == tenant, or_(Upload.expires_at.is_(None), Upload.expires_at > now())]

"""Uploads: declare files, send them, complete; list, get, delete. The sending itself is `api/uploads/receive.py`."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from api.audit import Action
from api.dependencies import ServiceSettings, Sessions, Store, Tenant
from api.openapi import OpenAPIObject
from api.protocol.pages import After, Limit
from api.protocol.problems import Problem
from api.protocol.strict_json import StrictRoute
from api.uploads.receive import received
from api.uploads.schemas import UploadAddress, UploadPage, UploadView, file_path, upload_path
from api.uploads.verify import faults_of
from jobs.database import transaction
from jobs.locations.uploads import NewUpload, key_of
from jobs.repository import DeclaredFile, UploadRepository
from jobs.tables import Upload

# Stores take no more in one request.
LARGEST_SIGNED_BYTES = 5 << 30
BYTES: OpenAPIObject = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
UploadId = Annotated[str, Path(pattern="^upload_[0-9a-z]{26}$")]

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=StrictRoute)


@router.post("", status_code=HTTPStatus.CREATED)
def create_upload(
    new: NewUpload, response: Response, action: Action, tenant: Tenant, settings: ServiceSettings
) -> UploadView:
    """Declare the files of an upload; their bytes count as stored from now on. Send each file, then complete
    the upload.

    An upload that is not complete within 24 hours is deleted.
    """
    total_bytes = sum(file.size_bytes for file in new.files)
    if total_bytes > settings.upload_limit_bytes:
        detail = f"an upload may have at most {settings.upload_limit_bytes} bytes, and this would have {total_bytes}"
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    files = [DeclaredFile(**file.model_dump()) for file in new.files]
    with action.transaction() as session:
        uploads = UploadRepository(session)
        upload = uploads.create(tenant, new.name, new.kind, files)
        action.subject = upload.id
        view = UploadView.of(upload, uploads.files(tenant, upload.id))
    response.headers["Location"] = upload_path(upload.id)
    return view


@router.get("")
def list_uploads(
    sessions: Sessions,
    tenant: Tenant,
    limit: Limit = 20,
    after: After = None,
) -> UploadPage:
    """Uploads, newest first."""
    with transaction(sessions) as session:
        uploads = UploadRepository(session)
        rows = uploads.page(tenant, limit=limit + 1, before=after)
        return UploadPage.of(
            rows, limit, lambda row: UploadView.of(row, uploads.files(tenant, row.id)), lambda row: row.id
        )


@router.get("/{upload_id}")
def get_upload(upload_id: UploadId, sessions: Sessions, tenant: Tenant) -> UploadView:
    """One upload."""
    return UploadView.of(*_upload_or_404(sessions, tenant, upload_id))


@router.delete("/{upload_id}", status_code=HTTPStatus.NO_CONTENT)
def delete_upload(upload_id: UploadId, action: Action, tenant: Tenant) -> None:
    """Delete an upload and its files; 409 while a job that has not ended reads it."""
    with action.transaction() as session:
        deleted = UploadRepository(session).delete(tenant, upload_id)
        if deleted is None:
            raise _unknown(upload_id)
        if not deleted:
            raise Problem(
                HTTPStatus.CONFLICT, f"a job that has not ended reads {upload_id}; cancel it, or wait for its end"
            )


@router.post("/{upload_id}/files/{name}/address")
def create_upload_address(
    upload_id: UploadId,
    name: str,
    action: Action,
    sessions: Sessions,
    store: Store,
    tenant: Tenant,
    settings: ServiceSettings,
) -> UploadAddress:
    """The address to send a file to: a signed one of the store, or else the file's link. Ask right before sending.

    A file that is sent to the store is checked when the upload is completed.
    """
    file = _open_file(sessions, tenant, upload_id, name)
    url = store.signed_upload_url(key_of(upload_id, name)) if file.size_bytes <= LARGEST_SIGNED_BYTES else None
    # The file goes straight to the store, so the audit log records who got the address.
    action.record()
    if url is None:
        return UploadAddress(url=file_path(upload_id, name), signed=False, expires_in_seconds=None)
    return UploadAddress(url=url, signed=True, expires_in_seconds=settings.presign_seconds)


@router.put("/{upload_id}/files/{name}", status_code=HTTPStatus.NO_CONTENT, openapi_extra=BYTES)
async def send_file(
    upload_id: UploadId,
    name: str,
    request: Request,
    action: Action,
    sessions: Sessions,
    store: Store,
    tenant: Tenant,
) -> None:
    """Send a file through the service. It is stored only if exactly its declared bytes arrive."""
    file = await run_in_threadpool(_open_file, sessions, tenant, upload_id, name)
    await store.receive(key_of(upload_id, name), received(request, file))
    await run_in_threadpool(action.record)


@router.post("/{upload_id}/complete")
async def complete_upload(
    upload_id: UploadId,
    action: Action,
    sessions: Sessions,
    store: Store,
    tenant: Tenant,
    settings: ServiceSettings,
) -> UploadView:
    """Let jobs read the upload. Every file must have the declared size, and the declared sha256 as far as the files can
    be read back within half a minute; a job that reads the upload checks all of it.

    A file that is not as declared is deleted from the store and named in the error; send it again. Completing an upload
    twice changes nothing.
    """
    upload, files = await run_in_threadpool(_upload_or_404, sessions, tenant, upload_id)
    if upload.completed_at is None and (faults := await faults_of(store, upload_id, files)):
        errors = [{"pointer": f"/files/{number}", "detail": fault} for number, fault in faults.items()]
        detail = "; ".join(faults.values())
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, code="upload_incomplete", errors=errors)
    completed = await run_in_threadpool(_complete, action, tenant, upload_id, settings.upload_retention_days)
    return UploadView.of(completed, files)


def _complete(action: Action, tenant: str, upload_id: str, retention_days: float) -> Upload:
    with action.transaction() as session:
        completed = UploadRepository(session).complete(tenant, upload_id, retention_days=retention_days)
        if completed is None:
            raise _unknown(upload_id)
        return completed


def _upload_or_404(sessions: sessionmaker[Session], tenant: str, upload_id: str) -> tuple[Upload, list[DeclaredFile]]:
    with transaction(sessions) as session:
        uploads = UploadRepository(session)
        upload = uploads.get(tenant, upload_id)
        if upload is None:
            raise _unknown(upload_id)
        return upload, uploads.files(tenant, upload_id)


def _open_file(sessions: sessionmaker[Session], tenant: str, upload_id: str, name: str) -> DeclaredFile:
    upload, files = _upload_or_404(sessions, tenant, upload_id)
    if upload.completed_at is not None:
        raise Problem(HTTPStatus.CONFLICT, f"{upload_id} is complete; nothing of it changes any more")
    for file in files:
        if file.name == name:
            return file
    raise Problem(HTTPStatus.NOT_FOUND, f"{upload_id} has no file of this name")


def _unknown(upload_id: str) -> Problem:
    """Another tenant's upload is answered exactly like one that never was."""
    return Problem(HTTPStatus.NOT_FOUND, f"there is no upload {upload_id}")

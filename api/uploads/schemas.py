"""Uploads as tenants see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Self, cast
from urllib.parse import quote

from pydantic import BaseModel

from api.protocol.pages import Page
from jobs.locations.uploads import UploadKind
from jobs.repository import DeclaredFile
from jobs.tables import Upload


class UploadFileView(BaseModel):
    """A file of an upload; `link` takes it by PUT."""

    name: str
    size_bytes: int
    sha256: str
    link: str


class UploadView(BaseModel):
    """An upload: `open` until it is complete, and `ready` for jobs, which name its `uri`, from then on."""

    id: str
    object: Literal["upload"] = "upload"
    name: str
    kind: UploadKind
    status: Literal["open", "ready"]
    uri: str
    size_bytes: int
    files: list[UploadFileView]
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, upload: Upload, files: Sequence[DeclaredFile]) -> Self:
        place = upload_path(upload.id)
        return cls(
            id=upload.id,
            name=upload.name,
            kind=cast(UploadKind, upload.kind),
            status="open" if upload.completed_at is None else "ready",
            uri=f"upload://{upload.id}",
            size_bytes=sum(file.size_bytes for file in files),
            files=[UploadFileView(**vars(file), link=file_path(upload.id, file.name)) for file in files],
            created_at=upload.created_at,
            completed_at=upload.completed_at,
            expires_at=upload.expires_at,
            links={"self": place, "complete": f"{place}/complete"},
        )


class UploadPage(Page[UploadView]):
    """A page of uploads, newest first."""


class UploadAddress(BaseModel):
    """Where a file is sent by PUT: an address of the store, without a key, or the file's link here, with one."""

    url: str
    signed: bool
    expires_in_seconds: int | None


def upload_path(upload_id: str) -> str:
    """The path of an upload on this service."""
    return f"/v1/uploads/{upload_id}"


def file_path(upload_id: str, name: str) -> str:
    """Where a file of an upload is sent to."""
    return f"{upload_path(upload_id)}/files/{quote(name)}"

"""Published files on their way out: a redirect to the store where it can sign, otherwise streamed, whole or in part."""

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC
from email.utils import format_datetime
from http import HTTPStatus
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from werkzeug.http import parse_etags, parse_if_range_header, parse_range_header

from api.openapi import OpenAPIObject
from api.protocol.problems import Problem
from jobs.artifacts import ArtifactStore, checked
from jobs.tables import Artifact

PARTS: dict[int | str, OpenAPIObject] = {
    206: {
        "description": "The part of it that `Range` asks for",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {"Content-Range": {"schema": {"type": "string"}}},
    },
    304: {"description": "It has not changed"},
}
"""What `deliver` answers beside the whole file."""


def deliver(request: Request, store: ArtifactStore, artifact: Artifact, *, inline: bool = False) -> Response:
    """The answer to a GET or HEAD of a published file; what is shown inline is small and always comes from here."""
    # A signature is good for one method.
    url = None if inline or request.method == "HEAD" else store.signed_url(artifact.key)
    if url is not None:
        return RedirectResponse(url, HTTPStatus.TEMPORARY_REDIRECT, {"Cache-Control": "no-store"})
    headers = _headers(artifact, inline=inline)
    if _unchanged(request, artifact):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    part = _range(request, artifact)
    if request.method == "HEAD":
        headers["Content-Length"] = str(artifact.size_bytes)
        return Response(headers=headers, media_type=artifact.media_type)
    if part is None:
        headers["Content-Length"] = str(artifact.size_bytes)
        chunks = checked(store.stream(artifact.key), artifact.key, artifact.sha256)
        return StreamingResponse(_opened(chunks), HTTPStatus.OK, headers, artifact.media_type)
    start, end = part
    headers["Content-Length"] = str(end - start)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size_bytes}"
    chunks = _opened(store.stream(artifact.key, start, end))
    return StreamingResponse(chunks, HTTPStatus.PARTIAL_CONTENT, headers, artifact.media_type)


def _headers(artifact: Artifact, *, inline: bool) -> dict[str, str]:
    name = quote(PurePosixPath(artifact.name).name)
    return {
        "ETag": f'"{artifact.sha256}"',
        # RFC 9530, of the whole file: who puts parts together can check the whole.
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(artifact.sha256)).decode()}:",
        "Last-Modified": format_datetime(artifact.created_at.astimezone(UTC), usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"{'inline' if inline else 'attachment'}; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
        **({"Vary": "Accept"} if inline else {}),
    }


def _unchanged(request: Request, artifact: Artifact) -> bool:
    known = request.headers.get("if-none-match", "")
    return parse_etags(known).contains_weak(artifact.sha256)


def _range(request: Request, artifact: Artifact) -> tuple[int, int] | None:
    """First byte and the one after the last; None for the whole, also where several ranges are asked for at once."""
    size = artifact.size_bytes
    requested = parse_range_header(request.headers.get("range"))
    if_range = request.headers.get("if-range", "")
    condition = parse_if_range_header(if_range)
    if requested is None or requested.units != "bytes" or len(requested.ranges) > 1:
        return None
    if (condition.etag and condition.etag != artifact.sha256) or condition.date or if_range.startswith("W/"):
        return None
    part = requested.range_for_length(size)
    if part is None:
        raise Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the file has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return part


def _opened(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, the first already there: an error of the store is an answer, not a broken download."""
    first = next(chunks, b"")

    def rest() -> Iterator[bytes]:
        yield first
        yield from chunks

    return rest()

"""One file to the service or from it, checked by its sha256."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from sglp_client.connection import Connection, raise_for_problem
from sglp_client.errors import DownloadDamaged
from sglp_client.resources import UploadAddress, UploadFile

CHUNK_BYTES = 1 << 20


def send_file(connection: Connection, file: UploadFile, source: Path, on_bytes: Callable[[int], None]) -> None:
    """Send `source` as this file of an upload; `on_bytes` is called with the bytes sent since the last call."""
    address = connection.call(UploadAddress, "POST", f"{file['link']}/address")
    # Object stores require the length, which httpx does not send with a stream.
    headers = {"Content-Length": str(file["size_bytes"])}
    chunks = _chunks(source, on_bytes)
    if address["signed"]:
        # Not through the service's client, which would send the API key to the object store.
        response = httpx.put(address["url"], content=chunks, headers=headers, timeout=connection.http.timeout)
    else:
        response = connection.http.put(address["url"], content=chunks, headers=headers)
    raise_for_problem(response)


def receive_file(connection: Connection, path: str, sha256: str, target: Path) -> None:
    """Write what lies at `path` of the service to `target`, which exists only once its sha256 is checked.

    Raises `DownloadDamaged`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unchecked = target.with_name(f"{target.name}.part")
    digest = hashlib.sha256()
    try:
        with connection.http.stream("GET", path, follow_redirects=True) as response, unchecked.open("wb") as file:
            raise_for_problem(response)
            for chunk in response.iter_bytes(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise DownloadDamaged(f"{target.name}: expected sha256 {sha256}, received {digest.hexdigest()}")
        unchecked.replace(target)
    finally:
        unchecked.unlink(missing_ok=True)


def sha256_of(file: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _chunks(file: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            yield chunk
            on_bytes(len(chunk))

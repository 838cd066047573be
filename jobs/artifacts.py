"""The artifact store: `s3://`, `gs://`, `az://` and `file://` behind one small interface.

Why obstore, and why what was uploaded is read back: docs/decisions/artifact-store.md.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from jobs.settings import Settings

if TYPE_CHECKING:
    from obstore import GetOptions

CHUNK_BYTES = 8 << 20
RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
TIMEOUT_SECONDS = 30.0
# As a whole a request may take very long: a large file over a slow line.
REQUEST_HOURS = 24
NO_SPACE = "os error 28"
# Deleting is rare, and several S3-compatible servers answer the bulk request in a form of their own.
S3_DEFAULTS = {"disable_bulk_delete": "true"}


class StorageUnavailable(Exception):
    """The store did not do what it was asked; trying again later may help."""


class StorageForbidden(StorageUnavailable):
    """The store does not let these credentials do it."""


class InsufficientStorage(Exception):
    """The store is full."""


class ArtifactStore:
    """Objects by key. Every method raises `StorageUnavailable`, and `put` also `InsufficientStorage`."""

    def __init__(self, store: ObjectStore, presign_seconds: int) -> None:
        self._store = store
        self._presign_seconds = presign_seconds

    def put(self, key: str, file: Path, media_type: str) -> tuple[int, str]:
        """Upload a file in parts, read it back, and return its size in bytes and its sha256.

        What does not come back as it was sent is deleted again and is a `StorageUnavailable`.
        """
        size_bytes, sha256 = _sized_digest(_chunks(file))
        with _plain_errors(key):
            obstore.put(
                self._store, key, file, chunk_size=CHUNK_BYTES, attributes=self._attributes(key, media_type, sha256)
            )
        if _sized_digest(self.stream(key)) != (size_bytes, sha256):
            self.delete_prefix(key)
            raise StorageUnavailable(f"{key} came back from the store with another content than was sent")
        return size_bytes, sha256

    def stream(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`."""
        with _plain_errors(key):
            options: GetOptions = {}
            if end is not None:
                options["range"] = (start, end)
            elif start:
                options["range"] = {"offset": start}
            for chunk in obstore.get(self._store, key, options=options).stream(min_chunk_size=1 << 20):
                yield bytes(chunk)

    async def receive(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store what comes in, in parts. Where `chunks` raises, that is raised, and nothing is stored."""
        with _plain_errors(key):
            await obstore.put_async(self._store, key, chunks, chunk_size=CHUNK_BYTES, max_concurrency=2)

    def size_bytes(self, key: str) -> int | None:
        """The size of an object; None where there is none."""
        with _plain_errors(key):
            try:
                return obstore.head(self._store, key)["size"]
            except FileNotFoundError:
                return None

    def sha256(self, key: str, until: float) -> str | None:
        """The sha256 of an object, which is read for it; None where that takes longer than `until` of the monotonic
        clock.
        """
        digest = hashlib.sha256()
        for chunk in self.stream(key):
            if time.monotonic() > until:
                return None
            digest.update(chunk)
        return digest.hexdigest()

    def signed_upload_url(self, key: str) -> str | None:
        """An address that lets anybody write the object for `presign_seconds`, if the store can sign and may."""
        return self._sign("PUT", key)

    def signed_url(self, key: str) -> str | None:
        """An address that lets anybody read the object for `presign_seconds`, if the store can sign and may."""
        return self._sign("GET", key)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders below a prefix that ends with a slash."""
        with _plain_errors(prefix):
            folders = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
            return [PurePosixPath(folder).name for folder in folders]

    def list(self, prefix: str) -> list[str]:
        """The keys below a prefix that ends with a slash."""
        return list(self.sizes(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size of every object below a prefix that ends with a slash, by key."""
        with _plain_errors(prefix):
            return {item["path"]: item["size"] for batch in obstore.list(self._store, prefix) for item in batch}

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything below the prefix, or the object of this key."""
        for key in self.list(prefix) or [prefix]:
            self.delete(key)

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        # Somebody else may be sweeping the same place.
        with _plain_errors(key), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def _sign(self, method: Literal["GET", "PUT"], key: str) -> str | None:
        if not (self._presign_seconds and isinstance(self._store, S3Store | GCSStore | AzureStore)):
            return None
        with _plain_errors(key):
            return obstore.sign(self._store, method, key, timedelta(seconds=self._presign_seconds))

    def _attributes(self, key: str, media_type: str, sha256: str) -> dict[str, str] | None:
        if isinstance(self._store, LocalStore):
            return None
        disposition = f"attachment; filename*=UTF-8''{quote(PurePosixPath(key).name)}"
        return {"Content-Type": media_type, "Content-Disposition": disposition, "sha256": sha256}


def open_store(settings: Settings) -> ArtifactStore:
    """The store of these settings. A folder is made; nothing is asked of another store yet."""
    return open_place(
        settings.artifact_url,
        settings.artifact_options,
        settings.presign_seconds,
        timeout_seconds=settings.artifact_timeout_seconds,
    )


def open_place(
    url: str, options: Mapping[str, str], presign_seconds: int = 0, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> ArtifactStore:
    """A store at a URL, with options as obstore names them. One that is silent for `timeout_seconds` has failed."""
    parts = urlsplit(url)
    store: ObjectStore
    if parts.scheme == "file":
        store = LocalStore(unquote(parts.path), automatic_cleanup=True, mkdir=True)
    else:
        plain_http = options.get("endpoint", "").startswith("http://")
        # Which options exist depends on the scheme, which is only known here and now.
        store = from_url(  # type: ignore[call-overload]
            url,
            config={**(S3_DEFAULTS if parts.scheme == "s3" else {}), **options},
            client_options={
                "allow_http": plain_http,
                "connect_timeout": timedelta(seconds=5),
                "read_timeout": timedelta(seconds=timeout_seconds),
                "timeout": timedelta(hours=REQUEST_HOURS),
            },
            retry_config=RETRIES,
        )
    return ArtifactStore(store, presign_seconds)


def checked(chunks: Iterator[bytes], key: str, sha256: str) -> Iterator[bytes]:
    """The same chunks, the last of them only once all are known to have this digest; raises `StorageUnavailable`.

    So who passes them on breaks off before the end, which no reader can take for a whole file.
    """
    digest, held = hashlib.sha256(), b""
    for chunk in chunks:
        if held:
            yield held
        digest.update(chunk)
        held = chunk
    if digest.hexdigest() != sha256:
        raise StorageUnavailable(f"{key} came back from the store with another content than was published")
    if held:
        yield held


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            yield chunk


def _sized_digest(chunks: Iterator[bytes]) -> tuple[int, str]:
    digest, size_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()


@contextmanager
def _plain_errors(key: str) -> Iterator[None]:
    """Errors of the store without its addresses and debug output."""
    try:
        yield
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        if NO_SPACE in str(error):
            raise InsufficientStorage("the artifact store's disk is full") from error
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            raise StorageForbidden(
                f"the artifact store does not allow {key}: check the credentials, and the clock of who asks"
            ) from error
        raise StorageUnavailable(f"the artifact store failed on {key}: {type(error).__name__}") from error

"""Files in a bucket of `s3://`, `gs://` or `az://`, read in parts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import from_url

from worker.sources.remote_folder import Interrupted, RemoteFile, SourceError, changed

if TYPE_CHECKING:
    from obstore import GetOptions

# One request reads PART_BYTES, which a slow connection can still transfer in PART_SECONDS.
PART_BYTES = 16 << 20
PART_SECONDS = 120
RETRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
DENIED = (PermissionDeniedError, UnauthenticatedError)


class Bucket:
    """The files directly below a URI, which ends without a slash."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        """Raises `SourceError` for options that the store does not know. No request is sent yet."""
        parts = urlsplit(uri)
        self._uri, self._prefix = uri, unquote(parts.path).strip("/")
        plain_http = any(value.startswith("http://") for value in options.values())
        try:
            # Which options exist depends on the scheme, which is only known here and now.
            self._store = from_url(  # type: ignore[call-overload]
                f"{parts.scheme}://{parts.netloc}",
                config=dict(options),
                client_options={"allow_http": plain_http, "connect_timeout": "5s", "timeout": f"{PART_SECONDS}s"},
                retry_config=RETRIES,
            )
        except (BaseError, ValueError, TypeError):
            # The store's message contains the options, which may be secrets.
            raise SourceError(
                "source_forbidden", f"the options for {parts.scheme}://{parts.netloc} in SGLP_SOURCES are not sound"
            ) from None

    def find(self, name: str) -> RemoteFile | None:
        uri = f"{self._uri}/{name}"
        try:
            with self._translated_errors(uri):
                meta = obstore.head(self._store, self._key(name))
        except FileNotFoundError:
            return None
        changed_at = meta["last_modified"].isoformat() if meta["last_modified"] else None
        return RemoteFile(name, uri, meta["size"], meta["e_tag"] or changed_at, meta["version"])

    def read(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            stop = min(end, start + PART_BYTES)
            options: GetOptions = {"range": (start, stop)}
            if file.version:
                options["version"] = file.version
            try:
                with self._translated_errors(file.uri):
                    response = obstore.get(self._store, self._key(file.name), options=options)
                    now = response.meta["e_tag"] or response.meta["last_modified"].isoformat()
                    if (now, response.meta["size"], response.range) != (file.validator, file.size_bytes, (start, stop)):
                        raise changed(file)
                    for chunk in response.stream(min_chunk_size=1 << 20):
                        yield bytes(chunk)
            except (FileNotFoundError, PreconditionError):
                raise changed(file) from None
            start = stop

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextmanager
    def _translated_errors(self, uri: str) -> Iterator[None]:
        """Raise `SourceError` or `Interrupted` for errors of the store, whose messages show addresses and secrets."""
        try:
            yield
        except DENIED:
            raise SourceError(
                "source_forbidden",
                f"{uri} may not be read with the credentials that SGLP_SOURCES has for it; check the key, its "
                "permissions and its clock",
            ) from None
        except (FileNotFoundError, PreconditionError):
            raise
        except (BaseError, OSError, ValueError) as error:
            raise Interrupted(f"{uri}: {type(error).__name__}") from None

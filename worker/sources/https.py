"""Files below an `https://` address, over connections whose address was checked, also after a redirect."""

import os
import re
import ssl
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote, urljoin, urlsplit

import certifi
import httpcore

from jobs.locations.uris import is_plain_path, place_of
from worker.network.egress import AddressRefused, guarded_pool
from worker.sources.remote_folder import Interrupted, RemoteFile, SourceError, changed

MAX_REDIRECTS = 5
# Without a single byte.
SILENT_SECONDS = 30.0
REDIRECTS = {301, 302, 303, 307, 308}
BUSY = {408, 425, 429, 500, 502, 503, 504}
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Website:
    """The files directly below an address, which ends without a slash; `deadline` is one of `time.monotonic`."""

    def __init__(
        self,
        uri: str,
        own: tuple[str, str | None],
        places: Collection[str],
        networks: Sequence[str],
        deadline: float,
    ) -> None:
        """`own` is the place that `uri` lies in and the authorization that only it gets; redirects lead to `places`."""
        self._uri = uri
        self._place, self._authorization = own
        self._places = places
        tls = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
        self._pool = guarded_pool(networks, deadline - time.monotonic(), tls, idle_connections=1)

    def close(self) -> None:
        self._pool.close()

    def find(self, name: str) -> RemoteFile | None:
        uri = f"{self._uri}/{quote(name)}"
        with self._answer("HEAD", uri, {}) as got:
            if got.status in {404, 410}:
                return None
            _require_success(got, uri)
            length = _header(got, b"content-length")
            if length is None or not length.isdecimal():
                raise SourceError(
                    "unsafe_format", f"the server does not say how long {uri} is (Content-Length); serve it as a file"
                )
            validator = _header(got, b"etag") or _header(got, b"last-modified")
            return RemoteFile(name, uri, int(length), validator, None)

    def read(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        if start == end:
            return
        headers = {"Range": f"bytes={start}-{end - 1}"}
        with self._answer("GET", file.uri, headers) as got:
            if got.status in {404, 410, 412, 416}:
                raise changed(file)
            _require_success(got, file.uri)
            if (_header(got, b"etag") or _header(got, b"last-modified")) != file.validator:
                raise changed(file)
            if got.status == 206:
                found = CONTENT_RANGE.fullmatch(_header(got, b"content-range") or "")
                if not found or [int(each) for each in found.groups()] != [start, end - 1, file.size_bytes]:
                    raise changed(file)
                skip = 0
            else:
                # The server knows no ranges.
                if _header(got, b"content-length") not in {None, str(file.size_bytes)}:
                    raise changed(file)
                skip = start
            left = end - start
            for chunk in got.iter_stream():
                kept = chunk[skip:]
                skip -= len(chunk) - len(kept)
                if len(kept) > left and end == file.size_bytes:
                    raise SourceError("unsafe_format", f"{file.uri} is longer than its server said it was")
                yield kept[:left]
                left -= min(len(kept), left)
                if not left and end < file.size_bytes:
                    return

    @contextmanager
    def _answer(self, method: str, uri: str, headers: dict[str, str]) -> Iterator[httpcore.Response]:
        url = uri
        for _ in range(MAX_REDIRECTS + 1):
            place = self._checked(url, uri)
            sent = {**headers, "Host": urlsplit(url).netloc, "User-Agent": "SGLP", "Accept-Encoding": "identity"}
            if self._authorization is not None and place == self._place:
                sent["Authorization"] = self._authorization
            with self._exchange(method, url, uri, sent) as got:
                if method == "HEAD":
                    # There is no body to come, but a response that was not read costs its connection.
                    got.read()
                if got.status not in REDIRECTS:
                    if (_header(got, b"content-encoding") or "identity").lower() != "identity":
                        raise SourceError("unsafe_format", f"{uri} comes compressed in transit, which is not undone")
                    yield got
                    return
                url = urljoin(url, _header(got, b"location") or "")
        raise SourceError("source_unreachable", f"{uri} redirects more than {MAX_REDIRECTS} times")

    def _checked(self, url: str, asked: str) -> str:
        parts = urlsplit(url)
        place = place_of(url.partition("?")[0], self._places)
        plain = url.isprintable() and url.isascii() and "@" not in parts.netloc and is_plain_path(parts.path)
        if parts.scheme != "https" or not plain or place is None:
            raise SourceError(
                "source_forbidden",
                f"{asked} leads to {parts.scheme}://{parts.hostname}, which does not lie in one of the places this "
                "service reads from (SGLP_SOURCES)",
            )
        return place

    @contextmanager
    def _exchange(self, method: str, url: str, asked: str, headers: dict[str, str]) -> Iterator[httpcore.Response]:
        limits = dict.fromkeys(("connect", "read", "write", "pool"), SILENT_SECONDS)
        try:
            with self._pool.stream(method, url, headers=headers, extensions={"timeout": limits}) as got:
                yield got
        except AddressRefused:
            raise SourceError(
                "source_forbidden",
                f"the host of {asked} stands for an address that is not public; its network can be allowed with "
                "SGLP_EGRESS_ALLOWED_NETWORKS",
            ) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise Interrupted(f"{asked}: {type(error).__name__}") from None
        except (httpcore.UnsupportedProtocol, ValueError):
            raise SourceError("source_forbidden", f"{asked} leads to an address that is none") from None


def _header(got: httpcore.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1").strip() for key, value in got.headers if key.lower() == name), None)


def _require_success(got: httpcore.Response, uri: str) -> None:
    if got.status in {401, 403}:
        raise SourceError(
            "source_forbidden", f"{uri} may not be read ({got.status}); check its authorization in SGLP_SOURCES"
        )
    if got.status in BUSY:
        raise Interrupted(f"{uri} answered {got.status}")
    if got.status not in {200, 206}:
        raise SourceError("source_unreachable", f"{uri} answered {got.status}, which is no file")

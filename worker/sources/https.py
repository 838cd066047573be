"""Download from `https://`. The address of each connection is checked, after a redirect too."""

import os
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urljoin, urlsplit

import certifi
import httpcore

from jobs.locations.uris import is_plain_path, place_of
from worker.network.egress import AddressRefused, guarded_pool
from worker.sources.access import SourceAccess
from worker.sources.remote_folder import Interrupted, RemoteFile, SourceError, changed

MAX_REDIRECTS = 5
# The longest time without a single byte.
SILENT_SECONDS = 30.0
REDIRECTS = {301, 302, 303, 307, 308}
BUSY = {408, 425, 429, 500, 502, 503, 504}
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Website:
    """The files directly below an address, which ends without a slash; `deadline` is one of `time.monotonic`."""

    def __init__(self, uri: str, place: str, access: SourceAccess, deadline: float) -> None:
        """`place` is the one that `uri` lies in; its authorization is sent to addresses in that place only."""
        self._uri = uri
        self._place, self._authorization = place, access.options[place].get("authorization")
        self._redirect_places = access.redirect_places
        tls = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
        self._pool = guarded_pool(access.allowed_networks, deadline - time.monotonic(), tls, idle_connections=1)

    def close(self) -> None:
        self._pool.close()

    def find(self, name: str) -> RemoteFile | None:
        uri = f"{self._uri}/{quote(name)}"
        with self._request("HEAD", uri, {}) as response:
            if response.status in {404, 410}:
                return None
            _require_success(response, uri)
            length = _header(response, b"content-length")
            if length is None or not length.isdecimal():
                raise SourceError(
                    "unsafe_format", f"the server does not say how long {uri} is (Content-Length); serve it as a file"
                )
            validator = _header(response, b"etag") or _header(response, b"last-modified")
            return RemoteFile(name, uri, int(length), validator, None)

    def read(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        if start == end:
            return
        headers = {"Range": f"bytes={start}-{end - 1}"}
        with self._request("GET", file.uri, headers) as response:
            if response.status in {404, 410, 412, 416}:
                raise changed(file)
            _require_success(response, file.uri)
            if (_header(response, b"etag") or _header(response, b"last-modified")) != file.validator:
                raise changed(file)
            if response.status == 206:
                match = CONTENT_RANGE.fullmatch(_header(response, b"content-range") or "")
                if not match or [int(each) for each in match.groups()] != [start, end - 1, file.size_bytes]:
                    raise changed(file)
                skip = 0
            else:
                # The server ignores ranges and sends the file from its start.
                if _header(response, b"content-length") not in {None, str(file.size_bytes)}:
                    raise changed(file)
                skip = start
            left = end - start
            for chunk in response.iter_stream():
                kept = chunk[skip:]
                skip -= len(chunk) - len(kept)
                if len(kept) > left and end == file.size_bytes:
                    raise SourceError("unsafe_format", f"{file.uri} is longer than its server said it was")
                yield kept[:left]
                left -= min(len(kept), left)
                if not left and end < file.size_bytes:
                    return

    @contextmanager
    def _request(self, method: str, uri: str, headers: dict[str, str]) -> Iterator[httpcore.Response]:
        url = uri
        for _ in range(MAX_REDIRECTS + 1):
            place = self._checked(url, uri)
            sent = {**headers, "Host": urlsplit(url).netloc, "User-Agent": "SGLP", "Accept-Encoding": "identity"}
            if self._authorization is not None and place == self._place:
                sent["Authorization"] = self._authorization
            with self._exchange(method, url, uri, sent) as response:
                if method == "HEAD":
                    # A HEAD response has no body, but its connection is only reused once the response was read.
                    response.read()
                if response.status not in REDIRECTS:
                    if (_header(response, b"content-encoding") or "identity").lower() != "identity":
                        raise SourceError("unsafe_format", f"{uri} comes compressed in transit, which is not undone")
                    yield response
                    return
                url = urljoin(url, _header(response, b"location") or "")
        raise SourceError("source_unreachable", f"{uri} redirects more than {MAX_REDIRECTS} times")

    def _checked(self, url: str, requested: str) -> str:
        parts = urlsplit(url)
        place = place_of(url.partition("?")[0], self._redirect_places)
        plain = url.isprintable() and url.isascii() and "@" not in parts.netloc and is_plain_path(parts.path)
        if parts.scheme != "https" or not plain or place is None:
            raise SourceError(
                "source_forbidden",
                f"{requested} leads to {parts.scheme}://{parts.hostname}, which does not lie in one of the places this "
                "service reads from (SGLP_SOURCES)",
            )
        return place

    @contextmanager
    def _exchange(self, method: str, url: str, requested: str, headers: dict[str, str]) -> Iterator[httpcore.Response]:
        limits = dict.fromkeys(("connect", "read", "write", "pool"), SILENT_SECONDS)
        try:
            with self._pool.stream(
                method, url, headers=list(headers.items()), extensions={"timeout": limits}
            ) as response:
                yield response
        except AddressRefused:
            raise SourceError(
                "source_forbidden",
                f"the host of {requested} stands for an address that is not public; its network can be allowed with "
                "SGLP_EGRESS_ALLOWED_NETWORKS",
            ) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise Interrupted(f"{requested}: {type(error).__name__}") from None
        except (httpcore.UnsupportedProtocol, ValueError):
            raise SourceError("source_forbidden", f"{requested} leads to an address that is none") from None


def _header(response: httpcore.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1").strip() for key, value in response.headers if key.lower() == name), None)


def _require_success(response: httpcore.Response, uri: str) -> None:
    if response.status in {401, 403}:
        raise SourceError(
            "source_forbidden", f"{uri} may not be read ({response.status}); check its authorization in SGLP_SOURCES"
        )
    if response.status in BUSY:
        raise Interrupted(f"{uri} answered {response.status}")
    if response.status not in {200, 206}:
        raise SourceError("source_unreachable", f"{uri} answered {response.status}, which is no file")

"""A web server over TLS on loopback, with its own certificate, that misbehaves on request."""

import hashlib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Misbehaviour = Callable[["Handler"], None]


class Web:
    """`files` maps a path to its content, `instead` to what answers a GET in its place.

    `served` counts the bytes of bodies; `requests` has method, path and authorization of each request.
    """

    def __init__(self, port: int, certificate: Path) -> None:
        self.url = f"https://localhost:{port}"
        self.certificate = certificate
        self.files: dict[str, bytes] = {}
        self.instead: dict[str, Misbehaviour] = {}
        self.served = 0
        self.requests: list[tuple[str, str, str | None]] = []

    def names(self) -> set[str]:
        return {path for _, path, _ in self.requests}


@contextmanager
def web(directory: Path) -> Iterator[Web]:
    """A running server without files; whoever trusts its `certificate` trusts it."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,DNS:other.localhost",
         "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with _Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        offered = Web(server.server_port, certificate)
        server.web = offered
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield offered
        server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    web: Web

    def handle_error(self, *_: object) -> None:
        """Clients that disconnect in the middle are expected."""


class Handler(BaseHTTPRequestHandler):
    """Serves a file, whole or the rest of it, as any web server does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def content(self) -> bytes:
        return self.server.web.files[self.path]

    def do_HEAD(self) -> None:
        self._note()
        if self.path not in self.server.web.files:
            self.answer(404, b"")
        else:
            self.head(200, len(self.content))

    def do_GET(self) -> None:
        self._note()
        if self.path in self.server.web.instead:
            self.server.web.instead[self.path](self)
        else:
            self.serve()

    def serve(self) -> None:
        start, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        begin, end = int(start), int(last) + 1
        self.head(206, end - begin, **{"Content-Range": f"bytes {begin}-{end - 1}/{len(self.content)}"})
        self.send(self.content[begin:end])

    def head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if self.path in self.server.web.files:
            self.send_header("ETag", f'"{hashlib.sha1(self.content).hexdigest()}"')
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.head(status, len(body), **headers)
        self.send(body)

    def send(self, body: bytes) -> None:
        self.server.web.served += len(body)
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""

    def _note(self) -> None:
        self.server.web.requests.append((self.command, self.path, self.headers["Authorization"]))


def redirect_to(url: str) -> Misbehaviour:
    return lambda handler: handler.answer(302, b"", Location=url)


def break_after(count: int, times: int) -> Misbehaviour:
    """Break the connection after some bytes of the first requests, then serve."""
    left = [times]

    def misbehave(handler: Handler) -> None:
        if not left[0]:
            handler.serve()
            return
        left[0] -= 1
        start = int(handler.headers["Range"].removeprefix("bytes=").partition("-")[0])
        total = len(handler.content)
        handler.head(206, total - start, **{"Content-Range": f"bytes {start}-{total - 1}/{total}"})
        handler.send(handler.content[start : start + count])
        handler.close_connection = True
        handler.connection.close()

    return misbehave


def drip(handler: Handler) -> None:
    """One byte at a time, each just before the client would time out."""
    total = len(handler.content)
    handler.head(206, total, **{"Content-Range": f"bytes 0-{total - 1}/{total}"})
    for each in handler.content:
        handler.send(bytes([each]))
        time.sleep(0.1)


def endless(handler: Handler) -> None:
    """A body without a length that does not end."""
    handler.head(200, None)
    while True:
        handler.send(b"x" * 65536)

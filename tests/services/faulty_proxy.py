"""A proxy in front of a store that speaks plain HTTP: it forwards each request, or injects a fault."""

import http.client
import socket
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Fault(Enum):
    """What happens to a request."""

    BUSY = "answered 503"
    RESET = "reset in the middle of its body, or of the answer's where it has none"
    CUT = "answered with half a body and the length of the whole"
    SHORTENED = "answered with half a body and the length of the half"
    CORRUPTED = "answered with one bit changed"
    HUNG = "taken and never answered"


class FaultyProxy:
    """Forwards everything until `do` is called; `broken` counts the requests that had a fault."""

    def __init__(self, upstream_port: int) -> None:
        self.broken = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._methods: Collection[str] = METHODS
        self._path = ""
        self._sound, self._left = 0, 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.upstream_port = upstream_port
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True, name="faulty proxy").start()

    def do(
        self, fault: Fault, *, methods: Collection[str] = METHODS, path: str = "", times: int = 1 << 30, after: int = 0
    ) -> None:
        """Inject the fault into the next `times` requests with these methods and with `path` in their path, after
        `after` requests without one.
        """
        with self._lock:
            self._fault, self._methods, self._path = fault, methods, path
            self._left, self._sound, self.broken = times, after, 0

    def heal(self) -> None:
        """Inject no more faults; requests that hang already continue to hang."""
        with self._lock:
            self._fault = None

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self, method: str, path: str) -> Fault | None:
        """The fault for a request that has just arrived, if any."""
        with self._lock:
            if self._fault is None or method not in self._methods or self._path not in path or not self._left:
                return None
            if self._sound:
                self._sound -= 1
                return None
            self._left -= 1
            self.broken += 1
            return self._fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def relay(self) -> None:
        fault = self.proxy.next_fault(self.command, self.path)
        if fault is Fault.HUNG:
            self.proxy.closing.wait()
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length", 0))
        if fault is Fault.RESET and length:
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self.rfile.read(length)
        if fault is Fault.BUSY:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream_port)
        try:
            # Header by header: what the client has signed must arrive as it was.
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            self._answer(answer, answer.read(), fault)
        finally:
            upstream.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay  # noqa: N815

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, fault: Fault | None) -> None:
        half = content[: len(content) // 2]
        if fault is Fault.CORRUPTED and content:
            content = half + bytes([content[len(half)] ^ 1]) + content[len(half) + 1 :]
        if fault is Fault.SHORTENED:
            content = half
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        # The answer to HEAD has the length of the body that GET would send.
        length = (answer.getheader("Content-Length") or "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(half if fault in {Fault.RESET, Fault.CUT} else content)
        if fault is Fault.RESET:
            self._reset()
        if fault is Fault.CUT:
            self.close_connection = True

    def _reset(self) -> None:
        self.wfile.flush()
        # Closed without waiting for anything to arrive, which TCP tells the other side as a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


@contextmanager
def faulty_proxy(upstream_port: int) -> Iterator[FaultyProxy]:
    """A proxy before a server on this machine."""
    proxy = FaultyProxy(upstream_port)
    try:
        yield proxy
    finally:
        proxy.close()

"""Requests as bytes: what no client library would send."""

import json
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """`status` is None where the connection ended without an answer."""

    status: int | None
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def exchange(port: int, request: bytes | Iterable[bytes], seconds: float = SECONDS) -> Answer:
    """Send these bytes and read one answer; raises `TimeoutError` where neither comes nor the connection ends."""
    parts = [request] if isinstance(request, bytes) else request
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        # A server that has answered already need not read the rest.
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                connection.sendall(part)
        answer = HTTPResponse(connection)
        try:
            answer.begin()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        except (HTTPException, ConnectionResetError):
            return Answer(None, {}, b"")


def request(method: str, target: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """A request with these header lines, as they are; `length` of None is the body's, and -1 says none."""
    size = len(body) if length is None else length
    said = [f"Content-Length: {size}"] if size > 0 or (method == "POST" and size >= 0) else []
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *said, *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(target: str, body: bytes, *headers: str, **options: Any) -> bytes:
    """A POST of JSON."""
    return request("POST", target, body, "Content-Type: application/json", *headers, **options)

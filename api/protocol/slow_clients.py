"""HTTP connections that end where a client is too slow to mean well: uvicorn itself waits for ever.

Once in a while a look at each connection: one that has not brought a request's header fields since the last look, or
too little of a body, or has taken nothing of an answer, is ended. See docs/decisions/slow-clients.md.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Any

import h11
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.protocol.problems import MEDIA_TYPE, problem

# Of a body; the slowest modem brings more.
LEAST_BYTES_A_SECOND = 500
SLOW = "the request came too slowly"


class SlowClientProtocol(H11Protocol):
    """Uvicorn's own protocol, which disconnects a slow client after one to two times `SGLP_SLOW_CLIENT_SECONDS`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        app = self.config.app
        assert isinstance(app, FastAPI)
        self._seconds: float = app.state.settings.slow_client_seconds
        self._received = 0
        self._seen: Any = None
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _look(self) -> None:
        # What a client does within the same step of the same request is all that it has done since.
        step, unsent = (self.cycle, self.conn.their_state), self.transport.get_write_buffer_size()
        if self.flow.write_paused and (step, unsent) == self._seen:
            # An orderly end would wait for the client to take the rest.
            self.transport.abort()
        elif self._seen is not None and step == self._seen[0] and self._comes_too_slowly():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, SLOW)
        self._seen, self._received = (step, unsent), 0
        self._next_look = self.loop.call_later(self._seconds, self._look)

    def _comes_too_slowly(self) -> bool:
        if self.conn.their_state is h11.IDLE:
            return True
        if self.conn.their_state is not h11.SEND_BODY or self.flow.read_paused:
            return False
        # A body that goes on behind its answer is read by nobody.
        return self.cycle.response_complete or self._received < self._seconds * LEAST_BYTES_A_SECOND

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer, where no answer has begun, and end the connection."""
        if self.cycle is not None:
            # Whoever still works on the request learns that nobody waits for it.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = json.dumps(problem(status, detail)).encode()
            fields = f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(f"HTTP/1.1 {status} {status.phrase}\r\n{fields}".encode() + body)
        self.transport.close()

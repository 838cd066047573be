"""Connections to hosts that a user or a remote server named. A name is resolved once, its addresses are checked, and
the connection goes to one of the checked addresses.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import httpcore

from jobs.locations.addresses import may_connect


class AddressRefused(httpcore.ConnectError):
    """The name stands for an address that the service does not connect to."""


class GuardedBackend(httpcore.SyncBackend):
    """Connects only where `may_connect` allows. The name stays in the Host header and in the TLS handshake."""

    def __init__(self, allowed_networks: Sequence[str], total_seconds: float) -> None:
        self._allowed = [ip_network(network) for network in allowed_networks]
        self._total_seconds = total_seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        deadline = time.monotonic() + self._total_seconds
        try:
            resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as failure:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from failure
        addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in resolved))
        if not all(may_connect(ip_address(address), self._allowed) for address in addresses):
            raise AddressRefused(f"{host} stands for an address that is not public")
        error: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectTimeout(f"{host} took too long")
        # A name often has an IPv6 address that cannot be reached from here, and may have any number of others.
        for address in addresses:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                seconds = left if timeout is None else min(timeout, left)
                stream = super().connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
                error = failure
            else:
                return BoundedStream(stream, deadline)
        raise error

    def connect_unix_socket(self, *_args: Any, **_kwargs: Any) -> httpcore.NetworkStream:
        raise AddressRefused("a socket file is not on the network")


class BoundedStream(httpcore.NetworkStream):
    """The same stream, but its reads and writes must end before `deadline` (of `time.monotonic`)."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._left(timeout, httpcore.ConnectTimeout)
        return BoundedStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise late("the whole exchange took too long")
        return left if timeout is None else min(timeout, left)


def guarded_pool(
    allowed_networks: Sequence[str] = (),
    total_seconds: float = 60.0,
    ssl_context: ssl.SSLContext | None = None,
    idle_connections: int = 0,
) -> httpcore.ConnectionPool:
    """A pool of such connections, each open for `total_seconds` at most; it follows no redirect and uses no proxy."""
    backend = GuardedBackend(allowed_networks, total_seconds)
    return httpcore.ConnectionPool(ssl_context, network_backend=backend, max_keepalive_connections=idle_connections)

"""An OpenTelemetry receiver on loopback: OTLP by HTTP, decoded with OpenTelemetry's own messages."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came; ids in hexadecimal, `parent` empty for the first of a trace."""

    service: str
    name: str
    trace_id: str
    id: str
    parent: str
    seconds: float
    facts: dict[str, Any]


@contextmanager
def trace_receiver() -> Iterator[tuple[str, list[ReceivedSpan]]]:
    """The endpoint of a running receiver, and what it has received so far."""
    received: list[ReceivedSpan] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.received = received  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.server.received.append(  # type: ignore[attr-defined]
                        ReceivedSpan(
                            service,
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                            {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes},
                        )
                    )
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""

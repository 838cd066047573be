"""Traces: spans of API, worker and the job's process, linked by the `traceparent` (W3C Trace Context) that a job's row
and its process's request carry. Without an endpoint to send them to, and then without OpenTelemetry, nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

EXPORT_SECONDS = 2

Fact = str | int | float | None

_tracer: Any = None


def configure_tracing(endpoint: str | None, service: str) -> None:
    """Send this process's spans to an OTLP receiver at `endpoint`, by HTTP. Raises `RuntimeError` without the extra."""
    if endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise RuntimeError("SGLP_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: `sglp[otel]`") from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"sglp-{service}"}))
    # A receiver that does not answer must not keep a process from ending.
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    global _tracer  # noqa: PLW0603 - one tracer a process, like its logs
    _tracer = provider.get_tracer("sglp")


class Span:
    """A span that goes on, or nothing where there are no traces."""

    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        """What makes another span a part of this one."""
        return _carried(self._span) if self._span else None

    @property
    def trace_id(self) -> str | None:
        """What all spans of the trace share: 32 hexadecimal digits."""
        return self.traceparent[3:35] if self.traceparent else None

    def record(
        self, facts: Mapping[str, Fact] = MappingProxyType({}), *, name: str | None = None, failed: bool = False
    ) -> None:
        """Set attributes of the span, another name, or that it has failed."""
        if self._span:
            from opentelemetry.trace import StatusCode

            if name is not None:
                self._span.update_name(name)
            if failed:
                self._span.set_status(StatusCode.ERROR)
            self._span.set_attributes({key: value for key, value in facts.items() if value is not None})

    def end(self) -> None:
        if self._span:
            self._span.end()


def begin_span(name: str, parent: str | None, **facts: Fact) -> Span:
    """A span below the one of this `traceparent`, or the first of a new trace; the caller ends it."""
    if _tracer is None:
        return Span(None)
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent} if parent else {}, Context())
    span = Span(_tracer.start_span(name, context))
    span.record(facts)
    return span


@contextmanager
def span_of(name: str, parent: str | None, **facts: Fact) -> Iterator[Span]:
    """A span for a block; an exception makes it a failed one."""
    span = begin_span(name, parent, **facts)
    try:
        yield span
    except BaseException:
        span.record(failed=True)
        raise
    finally:
        span.end()


def _carried(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

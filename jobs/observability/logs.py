"""Logs of all processes in one form: an event a line, JSON unless somebody is looking, libraries' records included.

What is bound to the context (`request_id`, `job_id`, `attempt`, `fence`) stands in every line written meanwhile.
"""

import logging
import sys
from collections.abc import Sequence

import structlog
from structlog.typing import Processor


def configure_logs(service: str) -> None:
    """Send everything that this process logs to standard error; `service` says which one it is."""
    seen_by_people = sys.stderr.isatty()
    common: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    structlog.configure(
        processors=[*common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: Sequence[Processor]
    if seen_by_people:
        last = (structlog.dev.ConsoleRenderer(),)
    else:
        # A traceback is a member of its event, not some lines behind it.
        last = (
            structlog.processors.format_exc_info,
            _Named(service),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    # Otherwise they are lines of their own form on standard error.
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)


class _Named:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"timestamp": event.pop("timestamp"), "service": self._service, **event}

"""The process itself: it ends with its parent, reads its input, runs the job, and reports how the job ended."""

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import pyprctl

from jobs.observability.tracing import configure_tracing, span_of
from worker.child.error_description import describe
from worker.child.job import run
from worker.child.pipe_reporter import PipeReporter
from worker.supervision.messages import ChildRequest, ErrorMessage, FinishedMessage


def main(request_file: Path, output: Path, pipe: int, parent: int) -> None:
    """Run the job and report how it ended; the exit status is 0 only after `finished`."""
    # Before torch is imported, which takes seconds.
    pyprctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        # The supervisor died before the line above took effect, so nobody will ever kill this process.
        sys.exit(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    credentials = json.load(sys.stdin)
    # Processes that the job starts cannot read the credentials again.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with open(pipe, "w", buffering=1, encoding="utf-8") as lines:
        try:
            _run(ChildRequest.model_validate_json(request_file.read_bytes()), output, lines, credentials)
        except Exception as error:
            traceback.print_exc()
            lines.write(ErrorMessage(error=describe(error)).model_dump_json() + "\n")
            sys.exit(1)
        lines.write(FinishedMessage().model_dump_json() + "\n")


def _run(request: ChildRequest, output: Path, lines: TextIO, credentials: Mapping[str, Mapping[str, str]]) -> None:
    _limit_memory(request.memory_bytes)
    configure_tracing(request.trace.endpoint, "job")
    with span_of(request.spec.mode, request.trace.parent) as span:
        reporter = PipeReporter(lines, span)
        run(request, output, reporter, credentials)
        reporter.end_phase()


def _limit_memory(max_bytes: int | None) -> None:
    """Limit this process and every process it starts. RLIMIT_AS would also count files that torch only maps."""
    if max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

"""The process that runs one job's method: a spec file in, JSON lines up a pipe, files out. It knows no database.

`python -m worker.child SPEC OUTPUT PIPE PARENT`, started by `worker.process`. The spec file holds the job's spec, the
`roots` and `cache` folders of the worker, and where its `trace` goes on. The lines are one of `{"progress": …}`,
`{"resolved": …}`, `{"plan": …}`, and at the end `{"error": {code, message}}` or `{"finished": true}`.
"""

import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

import pyprctl

from jobs.tracing import Span, begin_span, configure_tracing, span_of


def main(spec: Path, output: Path, pipe: int, parent: int) -> None:
    """Run the job and report how it ended; the exit status is 0 only after `finished`."""
    pyprctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        # The supervisor died before the line above took effect, so nobody will ever kill this process.
        sys.exit(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with open(pipe, "w", buffering=1, encoding="utf-8") as lines:
        try:
            request = json.loads(spec.read_text())
            configure_tracing(request["trace"]["endpoint"], "job")
            with span_of(request["spec"]["mode"], request["trace"]["parent"]) as span:
                observer = _Observer(lines, span)
                _run(request, output, observer)
                observer.phase.end()
        except Exception as error:
            traceback.print_exc()
            _send(lines, {"error": _describe(error)})
            sys.exit(1)
        _send(lines, {"finished": True})


class _Observer:
    """Passes what the method tells to the supervisor."""

    def __init__(self, lines: TextIO, span: Span) -> None:
        self._lines = lines
        self._span = span
        self._name = "starting"
        self.phase = begin_span(self._name, span.traceparent)

    def progress(self, progress: Any) -> None:
        if progress.phase != self._name:
            self.phase.end()
            self._name = progress.phase
            self.phase = begin_span(self._name, self._span.traceparent)
        _send(
            self._lines,
            {
                "progress": {
                    "phase": progress.phase,
                    "done": progress.done,
                    "total": progress.total,
                    "unit": progress.unit,
                }
            },
        )

    def resolved(self, facts: dict[str, Any]) -> None:
        _send(self._lines, {"resolved": facts})

    def planned(self, plan: dict[str, Any]) -> None:
        _send(self._lines, {"plan": plan})


def _run(request: dict[str, Any], output: Path, observer: _Observer) -> None:
    # Importing torch takes seconds, and the parent-death signal must be in place before.
    from sglp_core import (
        Calibration,
        Evaluation,
        Healing,
        Method,
        QualityTarget,
        SweepTarget,
        Target,
        analyze,
        compress,
        estimate,
        sweep,
    )

    spec = request["spec"]
    model, method = spec["model"], spec["method"]
    protected = method["protected"]
    common: dict[str, Any] = {
        "revision": model["revision"],
        "method": Method(**{**method, "protected": None if protected is None else tuple(protected)}),
        "calibration": Calibration(**spec["calibration"]),
        "roots": [Path(root) for root in request["roots"]],
        "cache": Path(request["cache"]),
        "observer": observer,
    }
    if spec["mode"] == "analyze":
        analyze(model["uri"], output, **common)
        return
    common["evaluation"] = Evaluation(**spec["evaluation"])
    target = dict(spec["target"] or {"kind": None})
    kind = target.pop("kind")
    if spec["mode"] == "estimate":
        estimate(model["uri"], output, target=Target(kind, **target) if kind else None, **common)
        return
    if kind == "sweep":
        sweep(model["uri"], SweepTarget(target["of"], tuple(target["ratios"])), output, **common)
    else:
        wanted = QualityTarget(**target) if kind == "quality" else Target(kind, **target)
        compress(model["uri"], wanted, output, healing=Healing(**spec["healing"]), **common)


def _describe(error: Exception) -> dict[str, str]:
    """The error as the job will carry it. What we did not foresee is told in the worker's log, not to the user."""
    from sglp_core.errors import SGLPError

    if isinstance(error, SGLPError) and error.code != SGLPError.code:
        return {"code": error.code, "message": str(error)}
    if type(error).__name__ == "OutOfMemoryError":
        return {"code": "gpu_out_of_memory", "message": "the GPU has not enough memory for this model and batch size"}
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return {"code": "out_of_memory", "message": "the worker has not enough memory for this model and batch size"}
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return {"code": "insufficient_storage", "message": "the worker's disk is full"}
    return {"code": "internal", "message": f"the job stopped on an unexpected {type(error).__name__}"}


def _send(lines: TextIO, message: dict[str, Any]) -> None:
    lines.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

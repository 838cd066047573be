"""The process that runs one job's method: a spec file in, JSON lines up a pipe, files out. It knows no database.

`python -m worker.child SPEC OUTPUT PIPE PARENT`, started by `worker.supervision.child_process`. The spec file holds the
job's spec, the `roots` and `cache` folders of the worker, how much may be downloaded from where, and where its `trace`
goes on; the options of the places that the job reads, which may be secrets, come on standard input. A line is one of
`{"progress": …}`, `{"resolved": …}`, `{"plan": …}`, and at the end `{"error": {code, message}}` or
`{"finished": true}`.
"""

import errno
import json
import os
import resource
import signal
import sys
import traceback
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import pyprctl

from jobs.locations.uris import place_of
from jobs.observability.tracing import Span, begin_span, configure_tracing, span_of
from worker.sources.hub_cache import hold, make_room
from worker.sources.model_files import Limits, Sources, is_remote
from worker.sources.place import SourceError
from worker.workspace import remove_abandoned, workspace


def main(spec: Path, output: Path, pipe: int, parent: int) -> None:
    """Run the job and report how it ended; the exit status is 0 only after `finished`."""
    pyprctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        # The supervisor died before the line above took effect, so nobody will ever kill this process.
        sys.exit(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    credentials = json.load(sys.stdin)
    # What the job starts inherits nothing that was said here.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with open(pipe, "w", buffering=1, encoding="utf-8") as lines:
        try:
            request = json.loads(spec.read_text())
            _limit_memory(request["memory_bytes"])
            configure_tracing(request["trace"]["endpoint"], "job")
            with span_of(request["spec"]["mode"], request["trace"]["parent"]) as span:
                observer = _Observer(lines, span)
                _run(request, output, observer, credentials)
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
        self.sources: list[dict[str, Any]] = []
        self._span = span
        self._name = "starting"
        self.phase = begin_span(self._name, span.traceparent)

    def fetched(self, done: int, total: int) -> None:
        self._begin("fetching")
        _send(self._lines, {"progress": {"phase": "fetching", "done": done, "total": total, "unit": "bytes"}})

    def progress(self, progress: Any) -> None:
        self._begin(progress.phase)
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
        _send(self._lines, {"resolved": {**facts, "sources": self.sources} if self.sources else facts})

    def planned(self, plan: dict[str, Any]) -> None:
        _send(self._lines, {"plan": plan})

    def _begin(self, phase: str) -> None:
        """A span for each phase, one after the other."""
        if phase != self._name:
            self.phase.end()
            self._name = phase
            self.phase = begin_span(phase, self._span.traceparent)


def _run(request: dict[str, Any], output: Path, observer: _Observer, credentials: dict[str, dict[str, str]]) -> None:
    cache = Path(request["cache"]) / "sources"
    remove_abandoned(cache / "in_use")
    # As long as the job runs: what it uses of the caches is what has a link in there.
    with workspace(cache / "in_use", "job") as folder:
        observer.fetched(0, 1)
        limits, hosts, networks = Limits(**request["limits"]), request["hosts"], request["networks"]
        with closing(
            Sources(folder, cache / "files", limits, credentials, hosts, networks, observer.fetched)
        ) as sources:
            outlined, local = _made_local(request, sources, folder, credentials)
        observer.sources = sources.facts
        _run_on(outlined, local, request, output, observer)


def _made_local(
    request: dict[str, Any], sources: Sources, folder: Path, credentials: dict[str, dict[str, str]]
) -> tuple[Any, dict[str, Path]]:
    """The model's files (for an estimate, what describes it), and the data's by what the specification calls it."""
    # Importing torch takes seconds, and the parent-death signal must be in place before.
    from sglp_core.checkpoints.fetch import Fetched, HubAccess, Outlined, fetch, fetch_outline

    spec, cache, limits = request["spec"], Path(request["cache"]), request["limits"]
    uri, estimates = spec["model"]["uri"], spec["mode"] == "estimate"
    # Never a token that lies on this machine for somebody else's use.
    token = credentials.get(place_of(uri, credentials) or "", {}).get("token", False)
    access = HubAccess(token, limits["max_bytes"], limits["max_files"])
    got: list[Outlined] = []

    def fetched() -> Path:
        asked = (uri, spec["model"]["revision"], cache, [Path(root) for root in request["roots"]], access)
        got.append(fetch_outline(*asked) if estimates else Outlined(fetch(*asked), {}))
        return got[-1].fetched.path

    if is_remote(uri):
        path = sources.outline(uri) if estimates else sources.model(uri)
        outlined = Outlined(Fetched(path, uri, None, downloaded=True), {})
    elif uri.startswith("hf://"):
        hold(fetched, folder / "model")
        make_room(cache / "hub", limits["cache_bytes"])
        outlined = replace(got[-1], fetched=replace(got[-1].fetched, path=folder / "model"))
    else:
        fetched()
        outlined = got[-1]
    named = {part: spec[part].get("source", "self") for part in ("calibration", "evaluation") if not estimates}
    return outlined, {source: sources.data(source, part) for part, source in named.items() if is_remote(source)}


def _run_on(outlined: Any, local: dict[str, Path], request: dict[str, Any], output: Path, observer: _Observer) -> None:
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
    method, model = spec["method"], outlined.fetched
    protected = method["protected"]
    common: dict[str, Any] = {
        "method": Method(**{**method, "protected": None if protected is None else tuple(protected)}),
        "calibration": Calibration(**spec["calibration"]),
        "roots": [Path(root) for root in request["roots"]],
        "cache": Path(request["cache"]),
        "observer": observer,
    }
    if spec["mode"] == "analyze":
        analyze(model, output, local=local, **common)
        return
    common["evaluation"] = Evaluation(**spec["evaluation"])
    target = dict(spec["target"] or {"kind": None})
    kind = target.pop("kind")
    if spec["mode"] == "estimate":
        estimate(outlined, output, target=Target(kind, **target) if kind else None, **common)
        return
    if kind == "sweep":
        sweep(model, SweepTarget(target["of"], tuple(target["ratios"])), output, local=local, **common)
    else:
        wanted = QualityTarget(**target) if kind == "quality" else Target(kind, **target)
        compress(model, wanted, output, healing=Healing(**spec["healing"]), local=local, **common)


def _limit_memory(most_bytes: int | None) -> None:
    """For this process and all that it starts: address space would count what torch only maps."""
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


def _describe(error: Exception) -> dict[str, str]:
    """The error as the job will carry it. What we did not foresee is told in the worker's log, not to the user."""
    from sglp_core.errors import SGLPError

    if isinstance(error, SourceError):
        return {"code": error.code, "message": str(error)}
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

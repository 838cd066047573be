"""What all pipelines begin with."""

from collections.abc import Sequence
from pathlib import Path

# Imported for what they add to `trace` and `evaluate`: how either is done on a streamed model.
from sglp_core.analysis import streamed_tracing  # noqa: F401
from sglp_core.checkpoints.fetch import Fetched
from sglp_core.evaluation import streamed  # noqa: F401
from sglp_core.loading.loaded_model import Opened, open_model
from sglp_core.options import Calibration, Memory
from sglp_core.progress import Observer, Progress
from sglp_core.reporting.write_report import require_new
from sglp_core.versions import versions


def open_for_run(
    model: str | Fetched,
    revision: str | None,
    calibration: Calibration,
    roots: Sequence[Path] | None,
    cache: Path,
    memory: Memory,
    observer: Observer,
    output: Path,
) -> Opened:
    require_new(output)
    opened = open_model(
        model,
        revision,
        calibration.sequence_length,
        cache,
        roots,
        lambda phase: observer.progress(Progress(phase, 0, 1, "steps")),
        memory,
    )
    observer.progress(Progress("opening", 1, 1, "steps"))
    observer.resolved(
        {
            "model_sha256": opened.source.digest,
            "revision": opened.fetched.revision,
            "format": opened.source.format,
            "class": opened.class_name,
            "versions": versions(),
        }
    )
    return opened

"""What all pipelines begin with."""

from collections.abc import Sequence
from pathlib import Path

from sglp_core.artifact import files as export
from sglp_core.checkpoints.fetch import Fetched
from sglp_core.loading.loaded_model import Opened, open_model
from sglp_core.options import Calibration, Memory
from sglp_core.progress import Observer, Progress
from sglp_core.reporting.write_results import require_new


def _open(
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
            "versions": export.versions(),
        }
    )
    return opened

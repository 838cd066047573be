"""A run of the method in this process: its output folder, its progress on the screen, and its errors."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import transformers
import typer
from rich.console import Console
from sglp_client import UserError
from sglp_client.cli.progress import PhaseBars, judgement_line

from sglp_core import Progress, SGLPError

# Standard output has the result alone.
console = Console(stderr=True)


class RunFailed(UserError):
    """The method could not do what the user asked for; the message begins with the error's code."""


class ScreenReporter:
    """Shows a run on the screen."""

    def __init__(self, bars: PhaseBars) -> None:
        self._bars = bars

    def progress(self, progress: Progress) -> None:
        self._bars.update(progress.phase, progress.done, progress.total, progress.unit)

    def resolved(self, facts: Mapping[str, object]) -> None:
        _print(f"{facts['class']} ({facts['format']}, sha256 {str(facts['model_sha256'])[:12]}…)")

    def planned(self, plan: Mapping[str, object]) -> None:
        _print(f"removing layers {plan['removed_layers']} ({plan['achieved']:.4g} of the {plan['kind']})")

    def judged(self, judgement: Mapping[str, float | None]) -> None:
        _print(judgement_line(judgement))


@contextmanager
def local_run(out: Path) -> Iterator[ScreenReporter]:
    """Around a run that writes to `out`, which is made before it and deleted again where nothing was written.

    Raises `RunFailed` for the errors of the method.
    """
    _make_output_folder(out)
    # The progress bars of transformers would break ours.
    transformers.utils.logging.disable_progress_bar()
    try:
        with PhaseBars(console) as bars:
            yield ScreenReporter(bars)
            bars.complete()
    except (SGLPError, ValueError) as error:
        raise RunFailed(f"{getattr(error, 'code', 'invalid')}: {error}") from error
    finally:
        with suppress(OSError):
            out.rmdir()


def _make_output_folder(out: Path) -> None:
    """Before the run: a folder that cannot be written to should not be noticed only after the work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise typer.BadParameter(f"{out} is not empty; name a new directory", param_hint="--out")
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise typer.BadParameter(f"{out} is no folder to write to: {error.strerror}", param_hint="--out") from error


def _print(line: str) -> None:
    console.print(line, markup=False)

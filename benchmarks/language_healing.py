"""Language models healed by a real training: SGLP's choice of layers beside others, against the tokens seen.

    python -m benchmarks.healing_texts --out texts.jsonl --held-out ../shared/data/wikitext-2/test.txt \
        --held-out ../shared/data/wikitext-2/valid.txt
    python -m benchmarks.language_healing --data ../shared/data --texts texts.jsonl --picture curves.svg

Every row is a job of the library: layers chosen on WikiText-2 (valid), repaired, healed on the texts, evaluated on
WikiText-2 (test). The curves are judged on calibration windows that repair and healing do not use. A row that
`--results` has with the same settings is not run again. Processes may run different rows into one file.
"""

import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress as Bars

from benchmarks.language_healing_results import draw, print_results
from benchmarks.results_file import ResultsFile
from sglp_core import Calibration, Evaluation, Healing, Method, Options, Progress, RunContext, SilentReporter, Target
from sglp_core import compress as compress_model
from sglp_core.checkpoints.model_folder import sha256_of
from sglp_core.options import Precision
from sglp_core.reporting.report import CompressReport
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
# The layers of SmolLM2-135M.
STACK = 30


@dataclass(frozen=True)
class Row:
    """How layers are chosen, and what healing follows: the dense model's outputs (alpha 1) or the text (0)."""

    method: Method
    alpha: float = 1.0


# Those of others know no segments, and the last layers include the very last.
ROWS = {
    "proposals": Row(Method()),
    "proposals_plain": Row(Method(), alpha=0.0),
    "block_influence": Row(Method(segments=1, importance="block_influence")),
    "random": Row(Method(segments=1, importance="random")),
    "last_layers": Row(Method(segments=1, importance="last_layers", protected=())),
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with wikitext-2/.", exists=True)],
    texts: Annotated[Path, typer.Option(help="What is healed on: a file of benchmarks.healing_texts.", exists=True)],
    model: Annotated[Path | None, typer.Option(help="Folder or GGUF file; by default SmolLM2-135M's package.")] = None,
    layers: Annotated[list[int], typer.Option(help="How many layers to remove; may be repeated.")] = [6, 10],  # noqa: B006
    row: Annotated[list[str], typer.Option(help="A row of the table; may be repeated.")] = [*ROWS],  # noqa: B006
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows a step.")] = 16,
    at_once: Annotated[int, typer.Option(min=1, help="Windows that go through the model at a time.")] = 8,
    length: Annotated[int, typer.Option(min=16, help="Tokens a window.")] = 512,
    rate: Annotated[float | None, typer.Option(help="The highest learning rate; by default the library's.")] = None,
    precision: Annotated[Precision, typer.Option(help="How a training step is computed.")] = "mixed",
    windows: Annotated[int, typer.Option(min=4, help="Calibration windows, a quarter of them judges.")] = 64,
    judged: Annotated[int, typer.Option(min=1, help="Test windows.")] = 128,
    seed: Annotated[int, typer.Option(help="Draws the windows and random plans.")] = 0,
    results: Annotated[Path, typer.Option(help="Where finished rows are kept.")] = Path("language_healing.jsonl"),
    picture: Annotated[Path | None, typer.Option(help="Draw KL against tokens: .svg or .png.")] = None,
    cache: Annotated[Path, typer.Option(help="Keeps analyses, and a healing that was stopped.")] = CACHE,
) -> None:
    """Run the rows that are not there yet, and print a table for each number of removed layers, and the curves."""
    if unknown := set(row) - set(ROWS):
        raise typer.BadParameter(f"rows are {', '.join(ROWS)}, not {', '.join(sorted(unknown))}")
    source = model or find_model()
    calibration = Calibration(str(data / "wikitext-2/valid.txt"), windows, length, at_once, seed)
    evaluation = Evaluation(str(data / "wikitext-2/test.txt"), judged, controls=False)
    kept, texts_sha256 = ResultsFile(results), sha256_of(texts)

    def settings(name: str, count: int) -> tuple[dict[str, Any], Options]:
        """What the row is found by, and the options of its job."""
        options = Options(
            method=ROWS[name].method,
            calibration=calibration,
            evaluation=evaluation,
            healing=Healing(
                steps=steps,
                learning_rate=rate,
                alpha=ROWS[name].alpha,
                trained="all",
                source=str(texts),
                batch_size=batch_size,
                precision=precision,
            ),
        )
        own = asdict(options)
        # Where files lie does not change what comes of them.
        own["calibration"]["source"] = own["evaluation"]["source"] = "wikitext-2"
        own["healing"]["source"] = texts_sha256
        return {"model": source.name, "layers": count, "row": name, **own}, options

    console = Console(stderr=True)
    for count in layers:
        for name in row:
            found_by, options = settings(name, count)
            if kept.find(found_by) is not None:
                continue
            title = f"{name}, {count} layers"
            with tempfile.TemporaryDirectory() as folder, Bars(console=console, transient=True) as bars:
                screen = _Screen(bars, title)
                context, target = RunContext(cache=cache, reporter=screen), Target("layers", count / STACK)
                report = compress_model(str(source.absolute()), target, Path(folder) / "out", options, context)
            kept.add(found_by, {**_result(report, batch_size * length), "seconds": screen.seconds})
            phases = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in screen.seconds.items())
            console.print(f"{title}: {phases}")

    tables = {}
    for count in layers:
        found = {name: kept.find(settings(name, count)[0]) for name in row}
        title = f"{count} of {STACK} layers removed, {steps * batch_size * length:,} tokens"
        tables[title] = {name: result for name, result in found.items() if result is not None}
    for title, rows in tables.items():
        print_results(title, rows)
    if picture is not None:
        draw(tables, picture)


class _Screen(SilentReporter):
    """Shows a bar, and has the `seconds` from the first to the last report of each phase."""

    def __init__(self, bars: Bars, title: str) -> None:
        self._bars, self._title = bars, title
        self._bar = bars.add_task(title)
        self._begun: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        self.seconds[progress.phase] = now - self._begun.setdefault(progress.phase, now)
        description = f"{self._title}: {progress.phase}"
        self._bars.update(self._bar, description=description, completed=progress.done, total=progress.total)


def _result(report: CompressReport, tokens_a_step: int) -> dict[str, Any]:
    """What the tables and the picture need of a report; the curve's perplexity is of the calibration windows."""
    healing = report.healing
    remaining = {row.metric: float(row.after or 0) / float(row.before or 1) for row in report.table}
    device = torch.accelerator.current_accelerator(check_available=True)
    return {
        "removed_layers": report.plan.removed_layers,
        "fewer_parameters": 1 - remaining["parameters"],
        "stages": {stage.stage: asdict(stage) for stage in report.stages},
        "kept_tokens": healing.kept_step * tokens_a_step,
        "curve": [
            {
                "tokens": point.step * tokens_a_step,
                "kl": point.kl,
                "agreement": point.agreement,
                "perplexity": None if point.loss is None else math.exp(point.loss),
            }
            for point in healing.curve
        ],
        "verified": report.verification.passed,
        "device": torch.cuda.get_device_name() if device and device.type == "cuda" else str(device or "cpu"),
    }


if __name__ == "__main__":
    typer.run(main)

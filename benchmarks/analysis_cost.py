"""What the analysis costs over what it cannot do without: one forward and one backward pass over the same batches.

    python -m benchmarks.analysis_cost

Time: the passes alternate in one process, and the ratio is of the medians. Memory: the peak of a fresh process each.
The tokens are random, as neither figure depends on what they say.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sglp_core.analysis.criteria import CRITERIA
from sglp_core.analysis.segmentation import segment
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.tracing import trace
from sglp_core.evaluation.footprint import peak_resident_bytes
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Calibration, Options
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_stack import layers_of
from sglp_core.tasks import Batch, logits_of, loss_of
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
TIME_GOAL = 1.15
MEMORY_GOAL = 1.10

Pass = Literal["load", "bare", "bare_layers", "bare_freed", "analysis"]
LABELS: dict[Pass, str] = {
    "load": "the loaded model alone",
    "bare": "forward + backward, all parameters",
    "bare_layers": "forward + backward, parameters of the layers only",
    "bare_freed": "forward + backward, every gradient freed at once",
    "analysis": "analysis: CKA, segments, every criterion",
}


def main(
    batches: Annotated[int, typer.Option(min=1, help="Batches of one pass.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows of one batch.")] = 8,
    sequence_length: Annotated[int, typer.Option(min=8, help="Tokens of one window.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Times each pass is timed.")] = 3,
    peak_of: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print time and memory of the analysis of SmolLM2-135M-Instruct beside the bare passes."""
    opened = load_model(
        find_model().as_uri(),
        Options(calibration=Calibration(sequence_length=sequence_length)),
        RunContext(cache=CACHE),
    )
    vocabulary = opened.model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (batches, batch_size, sequence_length), generator=generator)
    data = [Batch({"input_ids": window, "attention_mask": torch.ones_like(window)}, window) for window in ids]
    passes = _passes(opened, data)
    if peak_of:
        passes[peak_of]()
        print(json.dumps(peak_resident_bytes()))
        return

    timed: dict[Pass, list[float]] = {"bare": [], "bare_layers": [], "analysis": []}
    for _ in track(range(repeats), "timing", console=Console(stderr=True)):
        for name, seconds in timed.items():
            begin = time.perf_counter()
            passes[name]()
            seconds.append(time.perf_counter() - begin)
    options = [f"--batches={batches}", f"--batch-size={batch_size}", f"--sequence-length={sequence_length}"]
    peaks = {name: _peak_in_a_fresh_process(name, options) for name in LABELS}
    weights = sum(p.numel() * p.element_size() for p in opened.model.parameters())
    shape = f"{batches} batch(es) of {batch_size} × {sequence_length} tokens, {repeats} repeats"
    Console(width=120).print(_table(timed, peaks, weights, f"SmolLM2-135M-Instruct, {shape}"))


def _passes(opened: LoadedModel, data: list[Batch]) -> dict[str, Callable[[], object]]:
    model, layers = opened.model, layers_of(opened.model, opened.stack.path)

    def bare() -> None:
        for batch in data:
            loss_of(logits_of(model, batch), batch.labels, opened.task).backward()
        model.zero_grad()

    def bare_layers() -> None:
        model.requires_grad_(False)
        layers.requires_grad_(True)
        bare()
        model.requires_grad_(True)

    def bare_freed() -> None:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        bare()

    def analysis() -> None:
        similarity = SimilarityAccumulator()
        traced = trace(opened, data, similarity)
        segment(similarity.matrix())
        for criterion in CRITERIA.values():
            criterion.scores(traced)

    return {
        "load": lambda: None,
        "bare": bare,
        "bare_layers": bare_layers,
        "bare_freed": bare_freed,
        "analysis": analysis,
    }


def _peak_in_a_fresh_process(name: str, options: list[str]) -> int:
    command = [sys.executable, "-m", "benchmarks.analysis_cost", f"--peak-of={name}", *options]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def _table(timed: dict[Pass, list[float]], peaks: dict[Pass, int], weights: int, title: str) -> Table:
    table = Table("pass", "seconds", "spread", "analysis is ×", "peak MB", "peak / weights", title=title)
    analysis = statistics.median(timed["analysis"])
    for name, label in LABELS.items():
        seconds = timed.get(name)
        times = ("", "", "")
        if seconds:
            median = statistics.median(seconds)
            times = (f"{median:.2f}", f"{min(seconds):.2f}–{max(seconds):.2f}", f"{analysis / median:.3f}")
        table.add_row(label, *times, f"{peaks[name] / 1e6:,.0f}", f"{peaks[name] / weights:.2f}")
    memory = peaks["analysis"] / peaks["bare_freed"]
    table.caption = (
        f"weights {weights / 1e6:,.0f} MB; goals: time ≤ {TIME_GOAL} × bare, "
        f"memory ≤ {MEMORY_GOAL} × (weights + activations); the last is {memory:.3f} here"
    )
    return table


if __name__ == "__main__":
    typer.run(main)

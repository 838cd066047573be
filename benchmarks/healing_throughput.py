"""A step of a healing against one of the shortest training loop in PyTorch, on the same network and the same batches.

    python -m benchmarks.healing_throughput --data ../shared/data

All weights are trained towards the dense model's outputs, and no layer is removed, so that both compute the same. They
take turns; the figure is the ratio of the median times of a step, without the library's judgements.
"""

import copy
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.cifar_models import write_model
from benchmarks.markdown_table import print_table
from benchmarks.paper_claim_rows import training_images
from benchmarks.plain_training import train
from sglp_core import Calibration, Healing, Options, RunContext
from sglp_core.data.token_windows import batches, text_windows
from sglp_core.execution.variant import Variant
from sglp_core.healing.heal import JUDGEMENTS, Training, heal
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Precision
from sglp_core.progress import Phase, Progress, SilentReporter
from sglp_core.tasks import Batch
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
# So many steps that most of them have no judgement before them.
STEPS = 4 * JUDGEMENTS


def main(
    data: Annotated[Path, typer.Option(help="Folder with cifar10/, cifar10-resnets/ and wikitext-2/.", exists=True)],
    images: Annotated[int, typer.Option(min=2, help="Images a step.")] = 128,
    windows: Annotated[int, typer.Option(min=1, help="Windows of text a step.")] = 4,
    length: Annotated[int, typer.Option(min=16, help="Tokens a window.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 2,
    precision: Annotated[Precision, typer.Option(help="How a step is computed.")] = "full",
) -> None:
    """Print a row for ResNet-56 and one for SmolLM2-135M."""
    context = RunContext(cache=CACHE)
    with tempfile.TemporaryDirectory() as folder:
        resnet = write_model(data / "cifar10-resnets/resnet56-jpeg.safetensors", Path(folder) / "resnet56")

        def pictures() -> tuple[LoadedModel, list[Batch]]:
            return load_model(str(resnet), Options(), context), training_images(data, 8 * images, 0)

        def texts() -> tuple[LoadedModel, list[Batch]]:
            options = Options(calibration=Calibration(sequence_length=length))
            loaded = load_model(find_model().as_uri(), options, context)
            drawn = text_windows(data / "wikitext-2/valid.txt", loaded.processor, 8 * windows, length, 0)
            return loaded, list(batches(drawn, loaded.task, loaded.processor, windows, 0))

        rows = {
            f"ResNet-56, {images} images": (pictures, images),
            f"SmolLM2-135M, {windows} × {length} tokens": (texts, windows),
        }
        print_table(
            f"seconds a step, {precision} precision",
            (_row(name, *make(), size, rounds, precision) for name, (make, size) in rows.items()),
        )


def _row(
    name: str, loaded: LoadedModel, trained_on: list[Batch], size: int, rounds: int, precision: Precision
) -> dict[str, str]:
    healing = Healing(STEPS, 1e-6, trained="all", batch_size=size, precision=precision)
    # A quarter of this judges. The first batch of the rest says how many go through the model at once: all of a step.
    judged = [trained_on[0].rows(0, size + size // 3)] if len(trained_on) == 1 else trained_on[:2]

    def by_the_library(on_step: Callable[[int], None]) -> None:
        training = Training(healing, data=trained_on)
        heal(loaded, judged, Variant(()), training, Phase(_Steps(on_step), "healing"))

    def by_a_plain_loop(on_step: Callable[[int], None]) -> None:
        train(copy.deepcopy(loaded.model), loaded.model, trained_on, loaded.task, healing, STEPS, 0, on_step)

    library, plain = [], []
    for _ in range(rounds):
        library.append(_seconds_a_step(by_the_library))
        plain.append(_seconds_a_step(by_a_plain_loop))
    return {
        "": name,
        "library": f"{statistics.median(library):.3f}",
        "plain loop": f"{statistics.median(plain):.3f}",
        "throughput of the library": f"{statistics.median(plain) / statistics.median(library):.2f}",
    }


def _seconds_a_step(run: Callable[[Callable[[int], None]], Any]) -> float:
    times: list[float] = []

    def note(_step: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    run(note)
    return statistics.median(after - before for before, after in itertools.pairwise(times))


class _Steps(SilentReporter):
    def __init__(self, on_step: Callable[[int], None]) -> None:
        self._on_step = on_step

    def progress(self, progress: Progress) -> None:
        self._on_step(progress.done)


if __name__ == "__main__":
    typer.run(main)

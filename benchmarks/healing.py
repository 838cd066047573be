"""What healing gives back on a real language model, against steps: both ways of training, both losses, and controls.

    python -m benchmarks.healing --data ../shared/data

The plan is the one SGLP chooses; the controls' plans are repaired and healed in the same way. The curves are judged on
calibration windows that were not trained on, as in a job; dense, pruned, repaired and healed on WikiText-2 test.
"""

import itertools
import time
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from sglp_core.analysis.measure import measure
from sglp_core.data.calibration_data import CalibrationData
from sglp_core.data.token_windows import batches, text_windows
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import Changes
from sglp_core.healing.heal import Healed, Training, heal
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Calibration, Healing, Method, Options, Target, Trained
from sglp_core.planning.choose import choose_plan, control_plans
from sglp_core.progress import Phase, Progress, SilentReporter
from sglp_core.repair.repair import repair
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.run_context import RunContext
from sglp_core.tasks import Batch
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
PLANNING_WINDOWS = 8
WAYS: list[Trained] = list(get_args(Trained))
CONTROLS = ("block_influence", "random")


def main(
    data: Annotated[Path, typer.Option(help="Folder with wikitext-2/.", exists=True)],
    layers: Annotated[int, typer.Option(min=1, help="How many layers to remove.")] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Healing steps.")] = 24,
    windows: Annotated[
        int, typer.Option(min=8, help="Windows of 256 tokens to heal on, a quarter of them judges.")
    ] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows a step.")] = 2,
    judged: Annotated[int, typer.Option(min=1, help="Test windows of 256 tokens.")] = 16,
    trained: Annotated[list[Trained], typer.Option(help="What is trained; may be repeated.")] = WAYS,
    rate: Annotated[
        float | None, typer.Option(help="The highest learning rate; by default one that suits what is trained.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the calibration windows and LoRA's first values.")] = 0,
    bfloat16: Annotated[bool, typer.Option(help="Round the model to bfloat16 first.")] = False,
) -> None:
    """Print quality on test text of each model, and how each healing run went."""
    console = Console(width=140)
    calibration = Calibration(str(data / "wikitext-2/valid.txt"), windows, 256, batch_size, seed)
    loaded = load_model(
        find_model().as_uri(), Options(calibration=Calibration(sequence_length=256)), RunContext(cache=CACHE)
    )
    if bfloat16:
        loaded.model.bfloat16()
    calibration_windows = text_windows(Path(calibration.source), loaded.processor, windows, 256, seed)
    test = text_windows(data / "wikitext-2/test.txt", loaded.processor, judged, 256, 0)
    healed_on = list(batches(calibration_windows, loaded.task, loaded.processor, batch_size, seed))
    judge = list(batches(test, loaded.task, loaded.processor, 4, 0))

    begun = time.monotonic()
    plans = _plans(loaded, calibration_windows, calibration, layers)
    console.print(f"plans, {time.monotonic() - begun:.0f} s: {plans}")
    quality = Table("", "perplexity", "agreement", "KL", title=f"{layers} layers removed, WikiText-2 test")
    curves = Table(
        "", "s a step", "kept step", "KL / loss on held-out calibration windows by step", title="healing runs"
    )
    variants: dict[str, tuple[tuple[int, ...], Changes]] = {}
    for name, removed in plans.items():
        repaired = repair(loaded, healed_on, removed, "auto").changes
        variants |= {f"{name}, pruned": (removed, {}), f"{name}, repaired": (removed, repaired)}
        for way in trained:
            # One loss is enough for the controls.
            for alpha in (1.0, 0.0) if name.startswith("sglp") else (1.0,):
                healing = Healing(steps, rate, alpha, way)
                run = f"{name}, {way}, alpha {alpha:g}"
                healed, seconds = _timed(loaded, healed_on, removed, repaired, healing, seed)
                variants[run] = (removed, healed.changes)
                points = ", ".join(f"{point.step}: {point.kl:.3f} / {point.loss:.3f}" for point in healed.curve)
                curves.add_row(run, f"{seconds:.1f}", str(healed.step), points)
                console.print(f"{run}, {seconds:.1f} s a step: {points}")
    for name, each in _judge(loaded, judge, variants).items():
        quality.add_row(name, f"{each.perplexity:.4g}", f"{each.agreement:.3f}", f"{each.kl:.3f}")
    console.print(quality, curves, f"{time.monotonic() - begun:.0f} s in all")


def _plans(
    loaded: LoadedModel, calibration_windows: Any, calibration: Calibration, count: int
) -> dict[str, tuple[int, ...]]:
    """The layers that SGLP and the controls remove, chosen on a few of the windows."""
    measured, _ = calibration_windows.split(PLANNING_WINDOWS)
    few = CalibrationData(measured, None, calibration.batch_size, calibration.seed, "")
    method = Method(repair="none")
    analysis = measure(loaded, few, Options(method=method, calibration=calibration))
    target = Target("layers", count / len(loaded.stack))
    batches = few.calibration(loaded)
    finder = WriteFinder(loaded, batches[0])
    chosen = choose_plan(finder, analysis, target, Options(method=method, calibration=calibration), batches)
    others = control_plans(analysis, count, Options(method=method, calibration=calibration))
    by_plan = {chosen.plan.removed_layers: ["sglp"]}
    for name in CONTROLS:
        # What removes the same layers is healed once.
        by_plan.setdefault(others[name].removed_layers, []).append(name)
    return {" = ".join(names): removed for removed, names in by_plan.items()}


def _timed(
    loaded: LoadedModel,
    healed_on: list[Batch],
    removed: tuple[int, ...],
    repaired: Changes,
    healing: Healing,
    seed: int,
) -> tuple[Healed, float]:
    """What came of healing, and the seconds of a step without the judgements between them."""
    times = [0.0]
    begun = time.monotonic()

    class Times(SilentReporter):
        def progress(self, progress: Progress) -> None:
            if progress.done:
                times.append(time.monotonic() - begun)

    pruned, training = Variant(removed, repaired), Training(healing, seed=seed)
    healed = heal(loaded, healed_on, pruned, training, Phase(Times(), "healing"))
    spans = sorted(after - before for before, after in itertools.pairwise(times))
    return healed, spans[len(spans) // 2]


def _judge(
    loaded: LoadedModel, judge: list[Batch], variants: dict[str, tuple[tuple[int, ...], Changes]]
) -> dict[str, Quality]:
    return evaluate(loaded, judge, {name: Variant(removed, changes) for name, (removed, changes) in variants.items()})


if __name__ == "__main__":
    typer.run(main)

"""Which layers to remove from a language model: SGLP beside what others do, on held-out text.

    python -m benchmarks.language_quality --data ../shared/data

Every plan is judged as it is and with each repair, accepted or not by the same rule for all. Costs are forward passes
over the calibration windows to find the plan (a backward pass is two); repairs cost the same for everybody. Healing
starts from `auto`, with all defaults but the number of steps, on more windows of the same text than the plan saw.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import blimp, rivals
from sglp_core.analysis.measure import measure
from sglp_core.analysis.result import Analysis
from sglp_core.analysis.segmentation import Segmentation
from sglp_core.data.calibration_data import CalibrationData
from sglp_core.data.token_windows import batches, text_windows
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.weight_changes import Changes, swapped
from sglp_core.healing.heal import Training, heal
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import PROPOSALS, Calibration, Healing, Method, Options, Target
from sglp_core.planning.choose import choose_plan, control_plans
from sglp_core.planning.planning_run import PlanningRun
from sglp_core.progress import Phase, SilentReporter
from sglp_core.progress import Progress as ReportedProgress
from sglp_core.repair.repair import repair
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_stack import layers_of
from sglp_core.structure.runs import Segment
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
ANALYSIS_PASSES = 3
RANDOM_SEEDS = 5
HEALING_WINDOWS = 32
HEALING_BATCH = 2


@dataclasses.dataclass(frozen=True)
class Choice:
    """A set of layers to remove, the forward passes it took to find it, and its repair where that was made for it."""

    removed: tuple[int, ...]
    passes: float
    changes: Changes = dataclasses.field(default_factory=dict)


def main(
    data: Annotated[Path, typer.Option(help="Folder with wikitext-2/ and blimp/.", exists=True)],
    layers: Annotated[list[int], typer.Option(help="How many layers to remove; may be repeated.")] = [3, 6, 8, 10],  # noqa: B006
    windows: Annotated[int, typer.Option(min=2, help="Calibration windows of 256 tokens.")] = 16,
    judged: Annotated[int, typer.Option(min=1, help="Test windows of 256 tokens.")] = 16,
    pairs: Annotated[int, typer.Option(min=0, help="BLiMP pairs of each paradigm.")] = 20,
    seed: Annotated[int, typer.Option(help="Draws the calibration windows.")] = 0,
    slow: Annotated[bool, typer.Option(help="Also leave-one-out and greedy, which need hundreds of passes.")] = True,
    kinds: Annotated[
        list[str],
        typer.Option(
            "--repair",
            help="Judge plans with this repair too, and what SGLP chooses with it; or none.",
        ),
    ] = ["compensate", "least_squares", "auto"],  # noqa: B006
    heal_steps: Annotated[int, typer.Option(min=0, help="Judge every plan healed for so many steps too.")] = 0,
    bfloat16: Annotated[
        bool, typer.Option(help="Run the model in bfloat16, which is faster where it is native.")
    ] = False,
) -> None:
    """Print a table for every number of removed layers."""
    calibration = Calibration(str(data / "wikitext-2/valid.txt"), windows, 256, 4, seed)
    loaded = load_model(find_model().as_uri(), Options(calibration=calibration), RunContext(cache=CACHE))
    if bfloat16:
        loaded.model.bfloat16()
    measured = text_windows(Path(calibration.source), loaded.processor, windows, 256, seed)
    test = text_windows(data / "wikitext-2/test.txt", loaded.processor, judged, 256, 0)
    calibration_data = CalibrationData(measured, None, calibration.batch_size, seed, "")
    sentences = blimp.read_pairs(data / "blimp", pairs)

    with Progress(console=Console(stderr=True)) as progress:
        choices = _choices(loaded, calibration_data, calibration, layers, slow, kinds, progress)
        stack = layers_of(loaded.model, loaded.stack.path)
        judge = list(batches(test, loaded.task, loaded.processor, 4, 0))
        for count in layers:
            sets = {name: choice.removed for name, choice in choices[count].items()}
            weights = {name: choice.changes for name, choice in choices[count].items() if choice.changes}
            _repair_each(loaded, calibration_data, kinds, sets, weights, progress)
            if heal_steps:
                _heal_each(loaded, calibration, heal_steps, sets, weights, progress)
            quality = evaluate(
                loaded, judge, {name: Variant(removed, weights.get(name, {})) for name, removed in sets.items()}
            )
            grammar = {}
            for name, removed in ({"dense": ()} | sets).items() if sentences else ():
                with bypassed(stack, removed), swapped(loaded.model, weights.get(name, {})):
                    grammar[name] = blimp.accuracy(loaded.model, loaded.processor, sentences)
            Console(width=150).print(_table(count, sets, choices[count], quality, grammar))


def _repair_each(
    loaded: LoadedModel,
    calibration_data: CalibrationData,
    kinds: list[str],
    sets: dict[str, tuple[int, ...]],
    weights: dict[str, Changes],
    progress: Progress,
) -> None:
    """Add a variant for each plan and repair where the repair was accepted somewhere."""
    plans = {n: removed for n, removed in sets.items() if not n.startswith("SGLP (chosen with")}
    task = progress.add_task("repairs", total=len(plans) * len(kinds))
    for name, removed in plans.items():
        for kind in kinds:
            repaired = repair(loaded, calibration_data.calibration(loaded), removed, kind)
            if repaired.changes:
                sets[f"{name} + {kind}"] = removed
                weights[f"{name} + {kind}"] = repaired.changes
            progress.advance(task)
    progress.remove_task(task)


def _heal_each(
    loaded: LoadedModel,
    calibration: Calibration,
    steps: int,
    sets: dict[str, tuple[int, ...]],
    weights: dict[str, Changes],
    progress: Progress,
) -> None:
    """Add a variant for each plan, healed from where `auto` has brought it; of the random ones only for the first."""
    windows = text_windows(Path(calibration.source), loaded.processor, HEALING_WINDOWS, 256, calibration.seed)
    healed_on = list(batches(windows, loaded.task, loaded.processor, HEALING_BATCH, calibration.seed))
    default = "SGLP (chosen with auto)"
    plans = {n: removed for n, removed in sets.items() if n == default or f"{n} + auto" in sets}
    plans = {n: removed for n, removed in plans.items() if not n.startswith("random") or n == "random 0"}
    task = progress.add_task("healing", total=len(plans) * steps)
    for name, removed in plans.items():
        begun_with = weights.get(name if name == default else f"{name} + auto", {})
        training = Training(Healing(steps), seed=calibration.seed)
        healed = heal(loaded, healed_on, Variant(removed, begun_with), training)
        progress.advance(task, steps)
        sets[f"{name} + healed"] = removed
        weights[f"{name} + healed"] = healed.changes
    progress.remove_task(task)


def _choices(
    loaded: LoadedModel,
    calibration_data: CalibrationData,
    calibration: Calibration,
    counts: list[int],
    slow: bool,
    kinds: list[str],
    progress: Progress,
) -> dict[int, dict[str, Choice]]:
    stack = layers_of(loaded.model, loaded.stack.path)
    batch_list = calibration_data.calibration(loaded)
    finder = WriteFinder(loaded, batch_list[0])
    total = len(stack)
    method = Method()
    analysis = measure(loaded, calibration_data, Options(method=method, calibration=calibration))
    whole = dataclasses.replace(analysis, segmentation=Segmentation((Segment(0, total),), ()))
    blocks = rivals.angular_blocks(loaded.model, stack, batch_list, counts)
    order: tuple[int, ...] = ()
    if slow:
        task = progress.add_task("greedy", total=max(counts) * len(batch_list))
        order, single = rivals.greedy(loaded, batch_list, max(counts), lambda: progress.advance(task))

    choices: dict[int, dict[str, Choice]] = {}
    for count in counts:
        target = Target("layers", count / total)

        def by(importance: str, measured_analysis: Analysis, kind: str = "none", target: Target = target) -> Choice:
            trials = [0]

            class Trials(SilentReporter):
                def progress(self, progress: ReportedProgress) -> None:
                    if progress.unit == "trials":
                        trials.append(progress.done)

            chosen = choose_plan(
                finder,
                measured_analysis,
                target,
                Options(method=Method(importance=importance, repair=kind), calibration=calibration),
                batch_list,
                PlanningRun(Phase(Trials(), "planning")),
            )
            # A trial is one window.
            passes = ANALYSIS_PASSES + trials[-1] / len(calibration_data.measured)
            removed = chosen.plan.removed_layers
            repaired = repair(loaded, batch_list, removed, kind, finder=finder)
            return Choice(removed, passes, repaired.changes)

        rows = {
            "SGLP (proposals)": by(PROPOSALS, analysis),
            "SGLP (paper: grad_norm)": by("grad_norm", analysis),
            "block_influence": dataclasses.replace(by("block_influence", whole), passes=1),
            "angular block": Choice(blocks[count], 1),
            "taylor": by("taylor", whole),
            "first_order": by("first_order", whole),
            "last_layers": Choice(tuple(range(total - count, total)), 0),
        }
        if slow:
            cheapest = sorted(range(total), key=lambda i: float(single[i]))[:count]
            rows["leave_one_out"] = Choice(tuple(sorted(cheapest)), total)
            rows["greedy"] = Choice(tuple(sorted(order[:count])), rivals.greedy_passes(total, count))
        for kind in set(kinds) - {"none"}:
            rows[f"SGLP (chosen with {kind})"] = by(PROPOSALS, analysis, kind)
        for number in range(RANDOM_SEEDS):
            control = control_plans(analysis, count, Options(method=method, calibration=Calibration(seed=number)))[
                "random"
            ]
            rows[f"random {number}"] = Choice(control.removed_layers, 0)
        choices[count] = rows
    return choices


def _table(
    count: int,
    sets: dict[str, tuple[int, ...]],
    choices: dict[str, Choice],
    quality: dict[str, Quality],
    grammar: dict[str, float],
) -> Table:
    table = Table(
        "plan", "perplexity", "agreement", "KL", "BLiMP", "passes", "removed", title=f"{count} layers removed"
    )
    for name, each in quality.items():
        if name.startswith("random"):
            continue
        choice = choices.get(name.partition(" + ")[0], Choice((), 0))
        table.add_row(
            name,
            f"{each.perplexity:.4g}",
            f"{each.agreement:.3f}",
            f"{each.kl:.3f}",
            f"{grammar[name]:.3f}" if grammar else "",
            f"{choice.passes:.1f}",
            "" if " + " in name else ", ".join(map(str, sets.get(name, ()))),
        )
    treatments = dict.fromkeys(name.partition(" + ")[2] for name in quality if name.startswith("random"))
    for treatment in treatments:
        drawn = [n for n in quality if n.startswith("random") and n.partition(" + ")[2] == treatment]
        perplexities = [quality[name].perplexity for name in drawn]
        table.add_row(
            f"random, median of {len(drawn)}" + (f" + {treatment}" if treatment else ""),
            f"{statistics.median(perplexities):.4g}",
            f"{statistics.median(quality[name].agreement for name in drawn):.3f}",
            f"{statistics.median(quality[name].kl for name in drawn):.3f}",
            f"{statistics.median(grammar[name] for name in drawn):.3f}" if grammar else "",
            "0.0",
            f"perplexity {min(perplexities):.4g}–{max(perplexities):.4g}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)

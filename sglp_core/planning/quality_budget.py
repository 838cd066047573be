"""Find the largest removal whose loss of quality stays within a budget, by bisection over one analysis.

Plans are chosen and repaired on one half of the calibration samples and judged on the other half, so that the judgement
is not biased by the choice. The quality on held-out data is reported beside it and changes nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from sglp_core.analysis.result import Analysis
from sglp_core.data.calibration_data import CalibrationData
from sglp_core.errors import BadCalibration, TargetUnreachable
from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.variant import Variant
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import Options, QualityTarget, Target
from sglp_core.planning.choose import Choice, choose_plan
from sglp_core.planning.planning_run import PlanningRun
from sglp_core.repair.repair import repair
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.runs import Removed
from sglp_core.tasks import Batch


@dataclass(frozen=True)
class JudgedPlan:
    """One plan: `dense` and `value` are the metric of the dense and the pruned model, `drop` is how much is lost."""

    choice: Choice
    dense: float
    value: float
    drop: float

    @property
    def removed_layers(self) -> Removed:
        """The layers that the plan removes."""
        return self.choice.plan.removed_layers


@dataclass(frozen=True)
class QualitySearch:
    """The `best` plan within the budget and all that were `tried`, judged on a number of `samples`."""

    target: QualityTarget
    best: JudgedPlan
    tried: tuple[JudgedPlan, ...]
    samples: int


def search(
    loaded: LoadedModel,
    analysis: Analysis,
    target: QualityTarget,
    options: Options,
    data: CalibrationData,
    run: PlanningRun = PlanningRun(),
) -> QualitySearch:
    """Find the largest removal within the budget, each plan judged with the method's repair.

    Costs about log₂ L choices of a plan, each with its repair, and no backward pass. Raises `TargetUnreachable`, naming
    the smallest loss measured, where no removal stays within the budget.
    """
    count = len(analysis.stack)
    half = len(data.measured) // 2
    first, second = data.measured.split(len(data.measured) - half)
    chosen_on = replace(data, measured=first).calibration(loaded)
    judged_on = replace(data, measured=second).calibration(loaded) if half else chosen_on
    finder = WriteFinder(loaded, chosen_on[0])
    tried: dict[int, JudgedPlan] = {}

    @cache
    def within(removed: int) -> bool:
        try:
            part = Target("layers", removed / count)
            chosen = choose_plan(finder, analysis, part, options, chosen_on, PlanningRun(journal=run.journal))
        except TargetUnreachable:
            return False
        judge = partial(_judged, finder, chosen, target, options.method.repair, (chosen_on, judged_on))
        figures = run.journal.step("judged", chosen.plan.removed_layers, judge)
        tried[removed] = JudgedPlan(chosen, *figures)
        run.progress.advance()
        return tried[removed].drop <= target.max_drop

    run.progress.start(math.ceil(math.log2(count)) + 1, "plans")
    most = largest_within(count - 1, within)
    if most == 0:
        raise TargetUnreachable(_out_of_reach(target, list(tried.values())))
    return QualitySearch(target, tried[most], tuple(tried[n] for n in sorted(tried)), half or len(data.measured))


def _judged(
    finder: WriteFinder,
    chosen: Choice,
    target: QualityTarget,
    repair_name: str,
    batches: tuple[Sequence[Batch], Sequence[Batch]],
) -> tuple[float, float, float]:
    """The figures of `JudgedPlan` of the plan that was chosen on the first of two sequences of batches, repaired on it
    and judged on the second.
    """
    chosen_on, judged_on = batches
    removed = chosen.plan.removed_layers
    repaired = repair(finder.layered, chosen_on, removed, repair_name, finder=finder)
    quality = evaluate(finder.layered, judged_on, {"pruned": Variant(removed, repaired.changes)})
    dense, pruned = (getattr(quality[name], target.metric) for name in ("dense", "pruned"))
    if target.metric == "accuracy" and not dense:
        raise BadCalibration(
            "the model itself gets nothing right on this data, so every plan would be within the budget; give data "
            "that it was made for, or another metric"
        )
    return dense, pruned, target.drop(dense, pruned)


def largest_within(most: int, within: Callable[[int], bool]) -> int:
    """The largest n in 1 … `most` for which `within` holds, by bisection; 0 where there seems to be none.

    Quality is not exactly monotone in the number of removed layers, so the two numbers above the result are tried as
    well, and so on from the larger one that holds. A larger n beyond a wider gap is missed.
    """
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if within(middle):
            low = middle
        else:
            high = middle
    while better := next((n for n in (low + 2, low + 1) if n <= most and within(n)), None):
        low = better
    return low


def _out_of_reach(target: QualityTarget, tried: list[JudgedPlan]) -> str:
    if not tried:
        return "no layer can be removed: all are protected, or every segment keeps its only one"
    least = min(tried, key=lambda judged: judged.drop)
    unit = "a relative increase" if target.metric == "perplexity" else "a drop"
    return (
        f"no removal keeps {target.metric} within {unit} of {target.max_drop:.4g}: the smallest loss found is "
        f"{least.drop:.4g}, with {len(least.removed_layers)} of the layers removed "
        f"({', '.join(map(str, least.removed_layers))}). Allow a larger max_drop, or protect fewer layers."
    )

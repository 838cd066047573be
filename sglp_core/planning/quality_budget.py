"""The largest removal that stays inside a budget of lost quality, by bisection over one analysis.

Plans are chosen and repaired on one half of the calibration samples and judged on the other, so the choice does not
flatter itself; what the held-out data says of the plan that is found is reported beside it and changes nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from sglp_core.analysis.result import Analysis
from sglp_core.data.calibration_data import Data
from sglp_core.errors import BadCalibration, TargetUnreachable
from sglp_core.evaluation.quality import evaluate
from sglp_core.loading.loaded_model import Opened
from sglp_core.options import Method, QualityTarget, Target
from sglp_core.planning.choose import choose_plan
from sglp_core.planning.plan import Plan
from sglp_core.planning.proposals import Proposal
from sglp_core.repair.repair import repair
from sglp_core.structure.layer_stack import layers_of


@dataclass(frozen=True)
class Trial:
    """One plan that was judged: the metric of the dense and of the pruned model, and what is lost of it."""

    plan: Plan
    proposals: list[Proposal]
    dense: float
    value: float
    drop: float


@dataclass(frozen=True)
class Search:
    """The plan that was `found` and all that were `tried`, judged on so many `samples`."""

    target: QualityTarget
    found: Trial
    tried: tuple[Trial, ...]
    samples: int


def search(
    opened: Opened,
    analysis: Analysis,
    target: QualityTarget,
    method: Method,
    data: Data,
    seed: int,
    tell: Callable[[int, int, str], None],
) -> Search:
    """Find the largest removal within the budget, each plan judged with the method's repair.

    Costs about log₂ L choices of a plan, each with its repair, and no backward pass. Raises `TargetUnreachable`, naming
    the smallest loss that was found, where no removal stays inside.
    """
    count = len(analysis.stack)
    half = len(data.measured) // 2
    first, second = data.measured.split(len(data.measured) - half)
    chosen_on = replace(data, measured=first).calibration(opened)
    judged_on = replace(data, measured=second).calibration(opened) if half else chosen_on
    layers = layers_of(opened.model, opened.stack.path)
    expected = math.ceil(math.log2(count)) + 1
    tried: dict[int, Trial] = {}

    @cache
    def within(removed: int) -> bool:
        try:
            chosen = choose_plan(
                opened, analysis, Target("layers", removed / count), method, chosen_on, seed, lambda *_: None
            )
        except TargetUnreachable:
            return False
        removal = chosen.plan.removed_layers
        repaired = chosen.repaired or repair(
            opened.model, opened.stack.path, chosen_on, opened.task, removal, method.repair
        )
        quality = evaluate(
            opened.model,
            layers,
            judged_on,
            opened.task,
            {"pruned": removal},
            weights={"pruned": repaired.changes},
        )
        dense, pruned = (getattr(quality[name], target.metric) for name in ("dense", "pruned"))
        if target.metric == "accuracy" and not dense:
            raise BadCalibration(
                "the model itself gets nothing right on this data, so every plan would be within the budget; give data "
                "that it was made for, or another metric"
            )
        tried[removed] = Trial(chosen.plan, chosen.proposals, dense, pruned, target.drop(dense, pruned))
        tell(len(tried), max(expected, len(tried)), "plans")
        return tried[removed].drop <= target.max_drop

    tell(0, expected, "plans")
    found = largest_within(count - 1, within)
    if found == 0:
        raise TargetUnreachable(_out_of_reach(target, list(tried.values())))
    return Search(target, tried[found], tuple(tried[n] for n in sorted(tried)), half or len(data.measured))


def largest_within(most: int, within: Callable[[int], bool]) -> int:
    """The largest n in 1 … `most` that `within` holds for, by bisection; 0 where it finds none.

    Quality is not exactly monotone in the number of removed layers, so the two numbers above the result are tried as
    well, and the search goes on from there while one of them holds. It may still miss a larger n beyond a wider gap.
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


def _out_of_reach(target: QualityTarget, tried: list[Trial]) -> str:
    if not tried:
        return "no layer can be removed: all are protected, or every segment keeps its only one"
    least = min(tried, key=lambda trial: trial.drop)
    unit = "a relative increase" if target.metric == "perplexity" else "a drop"
    return (
        f"no removal keeps {target.metric} within {unit} of {target.max_drop:.4g}: the smallest loss found is "
        f"{least.drop:.4g}, with {len(least.plan.removed_layers)} of the layers removed "
        f"({', '.join(map(str, least.plan.removed_layers))}). Allow a larger max_drop, or protect fewer layers."
    )

"""Several ratios from one analysis: what each costs in quality and saves in size and time, and where the knee lies.

Nothing is written: quality is that of the dense model with the layers bypassed, time that of a copy from which they are
really removed and which shares every weight with the dense model.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglp_core.data.calibration_data import Data
from sglp_core.errors import TargetUnreachable
from sglp_core.evaluation.latency import Latency, measure_latency
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.knee import knee
from sglp_core.loading.loaded_model import Opened
from sglp_core.loading.processor import image_shape
from sglp_core.options import Repair, SweepTarget, Target
from sglp_core.planning.plan import Plan
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.repair.repair import repair
from sglp_core.structure.layer_stack import LayerStack, StackPath, example_inputs, layers_of

Count = Callable[[str, int, str], Callable[[], None]]


@dataclass(frozen=True)
class Point:
    """One plan of a sweep, or the dense model where `requested` is 0; layers, parameters and FLOPs are what is left.

    `weight_bytes` counts shared weights once; `requested` and `achieved` are fractions removed.
    """

    requested: float
    achieved: float
    removed_layers: tuple[int, ...]
    layers: int
    parameters: int
    flops: int
    weight_bytes: int
    quality: Quality
    latency: Latency


def plans_of(
    target: SweepTarget, choose: Callable[[Target], Plan], count: Count
) -> tuple[dict[float, Plan], dict[float, str]]:
    """A plan for every ratio that can be reached, and the reason for every other.

    Raises `TargetUnreachable` where none can.
    """
    plans: dict[float, Plan] = {}
    unreachable: dict[float, str] = {}
    on_plan = count("planning", len(target.ratios), "plans")
    for each in target.targets():
        try:
            plans[each.ratio] = choose(each)
        except TargetUnreachable as error:
            unreachable[each.ratio] = str(error)
        on_plan()
    if not plans:
        raise TargetUnreachable(unreachable[min(unreachable)])
    return plans, unreachable


def judge(
    opened: Opened, plans: Mapping[float, Plan], data: Data, kind: Repair, sequence_length: int, count: Count
) -> list[Point]:
    """The dense model and every plan, with the wanted repair, on the held-out data and on the clock."""
    path, decodes = opened.stack.path, opened.task == "causal_lm"
    named = {str(ratio): plan for ratio, plan in plans.items()}
    changes = {}
    on_plan = count("repairing", len(named), "plans")
    for name, plan in named.items():
        batches = data.calibration(opened)
        changes[name] = repair(opened.model, path, batches, opened.task, plan.removed_layers, kind).changes
        on_plan()
    batches = data.evaluation(opened)
    quality = evaluate(
        opened.model,
        layers_of(opened.model, path),
        batches,
        opened.task,
        {name: plan.removed_layers for name, plan in named.items()},
        count("evaluating", len(batches), "batches"),
        weights=changes,
    )
    shape = image_shape(opened.processor) if opened.task == "image_classification" else None
    inputs = example_inputs(opened.model, sequence_length, shape)
    on_latency = count("evaluating", len(named) + 1, "latencies")
    points = []
    for name, each in [("dense", None), *named.items()]:
        cut = cut_copy(opened.model, path, each.removed_layers if each else ())
        points.append(_point(opened.stack, cut, each, quality[name], measure_latency(cut, inputs, decodes)))
        on_latency()
    return points


def cut_copy(model: Any, path: StackPath, removed: Sequence[int]) -> Any:
    """The model with layers really removed, in new modules around the same tensors; `model` stays as it is."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    result = copy.deepcopy(model, shared)
    remove_layers(result, path, removed)
    return result


def knee_of(points: Sequence[Point]) -> Point | None:
    """The knee of nats a position (ln perplexity) against the fraction removed, from the dense model on."""
    by_ratio = {point.achieved: point for point in points}
    curve = [by_ratio[ratio] for ratio in sorted(by_ratio)]
    number = knee([point.achieved for point in curve], [math.log(point.quality.perplexity) for point in curve])
    return None if number is None else curve[number]


def _point(stack: LayerStack, cut: Any, plan: Plan | None, quality: Quality, latency: Latency) -> Point:
    removed = plan.removed_layers if plan else ()
    weights = {tensor.data_ptr(): tensor for tensor in cut.parameters()}.values()
    return Point(
        requested=plan.requested if plan else 0.0,
        achieved=plan.achieved if plan else 0.0,
        removed_layers=removed,
        layers=len(stack) - len(removed),
        parameters=sum(parameter.numel() for parameter in cut.parameters()),
        flops=stack.total_flops - sum(stack.layers[i].flops for i in removed),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in weights),
        quality=quality,
        latency=latency,
    )

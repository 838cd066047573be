"""Measure plans for several ratios from one analysis: quality, size and time of each, and the knee.

No model is written. Quality is that of the dense model with the layers bypassed; time is that of a copy without the
layers that shares all other weights with the dense model. Where weights are brought to the device layer by layer, time
is not measured: it would be that of bringing them.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglp_core.analysis.knee import knee
from sglp_core.data.calibration_data import CalibrationData
from sglp_core.errors import TargetUnreachable
from sglp_core.evaluation.latency import Latency, measure_latency
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.loading.processor import image_shape
from sglp_core.options import Options, SweepTarget, Target
from sglp_core.planning.plan import Plan
from sglp_core.progress import Phase
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.repair.repair import repair_plans
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_stack import LayerStack, example_inputs
from sglp_core.structure.runs import Removed


@dataclass(frozen=True)
class Point:
    """One plan of a sweep, or the dense model where `requested` is 0; layers, parameters and FLOPs are what is left.

    `weight_bytes` counts shared weights once; `requested` and `achieved` are fractions removed; `latency` is None where
    it was not measured.
    """

    requested: float
    achieved: float
    removed_layers: Removed
    layers: int
    parameters: int
    flops: int
    weight_bytes: int
    quality: Quality
    latency: Latency | None


def plans_of(
    target: SweepTarget, choose: Callable[[Target], Plan], progress: Phase
) -> tuple[dict[float, Plan], dict[float, str]]:
    """A plan for every ratio that can be reached, and the reason for every other.

    Raises `TargetUnreachable` where none can.
    """
    plans: dict[float, Plan] = {}
    unreachable: dict[float, str] = {}
    progress.start(len(target.ratios), "plans")
    for each in target.targets():
        try:
            plans[each.ratio] = choose(each)
        except TargetUnreachable as error:
            unreachable[each.ratio] = str(error)
        progress.advance()
    if not plans:
        raise TargetUnreachable(unreachable[min(unreachable)])
    return plans, unreachable


def measure_points(
    loaded: LoadedModel, plans: Mapping[float, Plan], data: CalibrationData, options: Options, context: RunContext
) -> list[Point]:
    """Quality on the held-out data, and latency, of the dense model and of every plan after the method's repair.

    Latency is measured where all weights are on the device.
    """
    named = {str(ratio): plan for ratio, plan in plans.items()}
    repaired = repair_plans(
        loaded,
        data.calibration(loaded),
        [plan.removed_layers for plan in named.values()],
        options.method.repair,
        context.phase("repairing"),
    )
    variants = {
        name: Variant(plan.removed_layers, each.changes)
        for (name, plan), each in zip(named.items(), repaired, strict=True)
    }
    evaluating = context.phase("evaluating")
    quality = evaluate(loaded, data.evaluation(loaded), variants, evaluating)
    evaluating.start(len(named) + 1, "latencies")
    points = []
    for name, each in [("dense", None), *named.items()]:
        cut = cut_copy(loaded, each.removed_layers if each else ())
        latency = _latency(loaded, cut, options.calibration.sequence_length) if loaded.weights.resident else None
        points.append(_point(loaded.stack, cut, each, quality[name], latency))
        evaluating.advance()
    return points


def cut_copy(layered: LayeredModel, removed: Sequence[int]) -> Any:
    """The model with layers really removed, in new modules around the same tensors; the model stays as it is."""
    model = layered.model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    result = copy.deepcopy(model, shared)
    remove_layers(result, layered.path, removed)
    return result


def knee_of(points: Sequence[Point]) -> Point | None:
    """The knee of nats a position (ln perplexity) against the fraction removed, from the dense model on.

    None where the largest removal loses nothing, and where no point lies below the chord.
    """
    by_ratio = {point.achieved: point for point in points}
    curve = [by_ratio[ratio] for ratio in sorted(by_ratio)]
    losses = [math.log(point.quality.perplexity) for point in curve]
    if not losses[-1] > losses[0]:
        return None
    number = knee([point.achieved for point in curve], losses)
    return None if number is None else curve[number]


def _latency(loaded: LoadedModel, cut: Any, sequence_length: int) -> Latency:
    shape = image_shape(loaded.processor) if loaded.task == "image_classification" else None
    return measure_latency(cut, example_inputs(loaded.model, sequence_length, shape), loaded.task == "causal_lm")


def _point(stack: LayerStack, cut: Any, plan: Plan | None, quality: Quality, latency: Latency | None) -> Point:
    removed = plan.removed_layers if plan else ()
    # Weights on disk are tensors without data, and so without an address.
    weights = {tensor.data_ptr() or id(tensor): tensor for tensor in cut.parameters()}.values()
    return Point(
        requested=plan.requested if plan else 0.0,
        achieved=plan.achieved if plan else 0.0,
        removed_layers=removed,
        layers=len(stack) - len(removed),
        parameters=sum(parameter.numel() for parameter in cut.parameters()),
        flops=stack.total_flops - sum(stack.layers[i].flops for i in removed),
        weight_bytes=sum(tensor.nbytes for tensor in weights),
        quality=quality,
        latency=latency,
    )

"""A plan that the request names, layer by layer: checked against the model before any work, and nothing is chosen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sglp_core.analysis.criteria import CONTROLS
from sglp_core.errors import BadLayers, TargetUnreachable
from sglp_core.options import Method, Options, PlanTarget, Target, layer_numbers
from sglp_core.planning.layer_kinds import plan_keeping_kinds, removable_counts
from sglp_core.planning.plan import Plan, costs_of_layers, segment_ranks
from sglp_core.structure.layer_signature import keeps_signatures
from sglp_core.structure.layer_stack import LayerStack
from sglp_core.structure.runs import Removed, runs_of


def given_plan(target: PlanTarget, stack: LayerStack, config: Any, method: Method) -> Plan:
    """The plan of the target for the model with this stack and configuration. Only what `method.protected` names is
    protected.

    Raises `BadLayers` where it does not fit the model or `method.protected`, or the model could not be built without
    these layers.
    """
    layers, pointer = len(stack), "/target/keep" if target.remove is None else "/target/remove"
    if target.layers not in (None, layers):
        raise BadLayers(f"/target/layers is {target.layers}, and the model has {layers}: the plan is for another model")
    named = layer_numbers(target.remove or target.keep or (), layers, pointer)
    if twice := sorted({number for number in named if named.count(number) > 1}):
        raise BadLayers(f"{pointer} names {_listed(twice)} more than once")
    removed = tuple(sorted(set(range(layers)) - set(named) if target.remove is None else named))
    if not 0 < len(removed) < layers:
        raise BadLayers(f"{pointer} names all {layers} layers of the model")
    protected = set() if method.protected is None else method.protected_in(layers)
    if both := sorted(protected.intersection(removed)):
        raise BadLayers(f"{pointer} removes, and /method/protected protects, {_listed(both)}")
    if reason := _reason_against(removed, stack, config):
        raise BadLayers(f"{pointer}: {reason}")
    achieved = len(removed) / layers
    reachable = max(removable_counts(stack, protected)) / layers
    return Plan(Target("layers", achieved, exact=True), removed, achieved, reachable, achieved)


def controls_of_given(removed: Removed, stack: LayerStack, options: Options) -> dict[str, Plan]:
    """The controls that need no measurement, with as many layers; one that cannot remove as many is left out.

    They keep the protected layers, but not those that the given plan removes.
    """
    protected = options.method.protected_in(len(stack)) - set(removed)
    plans = {}
    for name, control in CONTROLS.items():
        ranks = segment_ranks(control.scores(len(stack), options.calibration.seed).tolist(), stack.stages)
        keeps = protected if control.protects else set()
        try:
            plans[name] = plan_keeping_kinds(
                stack, Target("layers", len(removed) / len(stack)), costs_of_layers(ranks), stack.stages, keeps
            )
        except TargetUnreachable:
            continue
    return plans


def _reason_against(removed: Removed, stack: LayerStack, config: Any) -> str:
    """Why the model cannot be without these layers; empty where it can."""
    if empty := next((stage for stage in stack.stages if set(removed).issuperset(stage.layers)), None):
        return f"{_listed(empty.layers)} are a whole stage, of which one must stay"
    if vanished := stack.vanished_kind(removed):
        staying = {kind for layer in stack.layers if layer.index not in removed for kind in layer.kinds}
        kind = next(kind for kind in stack.layers[vanished[0]].kinds if kind not in staying)
        return f"{_listed(vanished)} are all of their kind ({kind}), and the model class expects one"
    signatures = [layer.signature for layer in stack.layers]
    if keeps_signatures(config, str(stack.path), signatures, removed) if all(signatures) else stack.can_remove(removed):
        return ""
    allowed = np.isfinite(stack.removable(np.zeros((len(stack) + 1,) * 2)))
    alone = next((run for run in runs_of(removed) if not allowed[run]), None)
    if alone is None:
        return (
            f"without {_listed(removed)} the model class would build other layers differently; most often the first "
            "and the last layer have a special role"
        )
    stops = [stop for stop in range(alone.start + 1, len(stack) + 1) if allowed[alone.start, stop]]
    others = "; ".join(_listed(range(alone.start, stop)) for stop in stops) or "none"
    return (
        f"{_listed(alone.layers)} cannot go alone, because the layers after them would come to places for which the "
        f"model class builds others; what can go from layer {alone.start} on: {others}"
    )


def _listed(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return f"layers {', '.join(map(str, layers))}"

"""The memory that a healing takes at most, computed before there is a plan.

What is trained, in float32, is on the device: the values, their gradients, the two moments of the optimiser, and the
values that did best.
"""

from collections.abc import Sequence

import torch
from torch import nn

from sglp_core.errors import OutOfMemory
from sglp_core.execution.available_memory import free_bytes
from sglp_core.execution.weight_changes import owners
from sglp_core.healing.lora import RANK, linear_layers
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import Healing, QualityTarget, Target, Trained
from sglp_core.planning.plan import Plan

BYTES_PER_TRAINED_PARAMETER = 5 * 4
WAYS: tuple[Trained, ...] = ("neighbours", "lora")


def require_room(loaded: LoadedModel, healing: Healing, target: Target | QualityTarget | Plan) -> None:
    """Raise `OutOfMemory` where there may be no room for what is trained, and say what there is room for."""
    if not healing.trains or _fits(loaded, healing.trained, target):
        return
    fitting = [way for way in WAYS if _fits(loaded, way, target)]
    advice = f"train `{fitting[0]}` instead, which fits" if fitting else "leave healing out"
    needed = sum(_required_bytes(loaded, healing.trained, target))
    raise OutOfMemory(
        f"healing by `{healing.trained}` takes up to {needed / 1e6:,.0f} MB beside the model, and "
        f"{free_bytes(loaded.device) / 1e6:,.0f} MB are free; {advice}"
    )


def _fits(loaded: LoadedModel, trained: Trained, target: Target | QualityTarget | Plan) -> bool:
    on_device, merged = _required_bytes(loaded, trained, target)
    if loaded.weights.resident or loaded.device.type == "cpu":
        return on_device + merged <= free_bytes(loaded.device)
    return on_device <= free_bytes(loaded.device) and merged <= free_bytes(torch.device("cpu"))


def _required_bytes(loaded: LoadedModel, trained: Trained, target: Target | QualityTarget | Plan) -> tuple[int, int]:
    """Bytes on the device for what is trained, and bytes for the weights that updates are merged into."""
    fewest, most = _removed_layers(loaded, target)
    if trained == "lora":
        # All layers that stay; the merged weights have the type in which they are stored.
        weights = [layer.get_parameter("weight") for layer in linear_layers(loaded).values()]
        share = 1 - fewest / len(loaded.stack)
        factors = RANK * sum(sum(weight.shape) for weight in weights)
        stored = sum(weight.nbytes for weight in weights)
        return int(share * factors) * BYTES_PER_TRAINED_PARAMETER, int(share * stored)
    sizes = sorted((layer.parameters for layer in loaded.stack.layers), reverse=True)
    if trained == "all":
        gone = sum(sorted(layer.parameters for layer in loaded.stack.layers)[:fewest])
        return (loaded.stack.total_parameters - gone) * BYTES_PER_TRAINED_PARAMETER, 0
    # A cut has two neighbours, and no two cuts have the same ones where the most are trained.
    beside = max(min(2 * removed, len(sizes) - removed) for removed in range(fewest, most + 1))
    return (sum(sizes[:beside]) + _after_the_layers(loaded)) * BYTES_PER_TRAINED_PARAMETER, 0


def _removed_layers(loaded: LoadedModel, target: Target | QualityTarget | Plan) -> tuple[int, int]:
    """How many layers a plan for the target removes at least and at most."""
    if isinstance(target, QualityTarget):
        return 1, len(loaded.stack) - 1
    if isinstance(target, Plan):
        return len(target.removed_layers), len(target.removed_layers)
    sizes, total = loaded.stack.sizes(target.kind)
    needed = target.ratio * total
    return _count(sorted(sizes, reverse=True), needed), _count(sorted(sizes), needed)


def _count(sizes: Sequence[int], needed: float) -> int:
    """How many of the sizes, from the first on, reach what is needed; at most all but one."""
    reached = 0
    for count, size in enumerate(sizes[:-1], start=1):
        reached += size
        if reached >= needed:
            return count
    return max(1, len(sizes) - 1)


def _after_the_layers(loaded: LoadedModel) -> int:
    """Parameters outside of the layers, without embeddings and what is tied to them."""
    inside = {id(parameter) for parameter in loaded.layers.parameters()}
    return sum(
        parameter.numel()
        for module in loaded.model.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if id(parameter) not in inside and owners(loaded.model, parameter) == 1
    )

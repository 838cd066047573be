"""Which weights healing trains by default: those of the kept layers next to a cut, and of what follows the stack."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.weight_changes import frozen, owners
from sglp_core.structure.layer_calls import layer_output
from sglp_core.structure.layer_stack import layer_names
from sglp_core.structure.runs import runs_of
from sglp_core.tasks import Batch, logits_of


def names_near_cuts(layered: LayeredModel, removed: Sequence[int], batch: Batch) -> tuple[str, ...]:
    """Parameters of the kept layers next to a cut, and of the modules after the stack (last norm, head).

    A head that is tied to the embeddings is not trained.
    """
    layers = layer_names(layered.model, layered.path)
    gone = set(removed)
    near = {side for run in runs_of(removed) for side in (run.start - 1, run.stop)} & set(range(len(layers))) - gone
    prefixes = tuple(f"{layers[index]}." for index in sorted(near))
    after = _after_the_stack(layered, batch)
    return tuple(
        name
        for name, parameter in layered.model.named_parameters()
        if (name.startswith(prefixes) or name in after) and owners(layered.model, parameter) == 1
    )


def _after_the_stack(layered: LayeredModel, batch: Batch) -> set[str]:
    """The parameters that get a gradient when the graph is cut at the output of the last layer."""

    def detach_output(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = layer_output(output).detach()
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    inside = tuple(f"{name}." for name in layer_names(layered.model, layered.path))
    handle = layered.layers[-1].register_forward_hook(detach_output)
    try:
        with layered.whole() as model, frozen(model):
            outside = {n: p for n, p in model.named_parameters() if not n.startswith(inside)}
            for parameter in outside.values():
                parameter.requires_grad_(True)
            logits = logits_of(model, layered.on_device(batch.rows(0, 1)))
            gradients = torch.autograd.grad(logits.float().sum(), list(outside.values()), allow_unused=True)
    finally:
        handle.remove()
    return {name for name, gradient in zip(outside, gradients, strict=True) if gradient is not None}

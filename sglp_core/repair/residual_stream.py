"""The residual stream at a cut: that of the dense model after it, and that of the pruned model."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.execution.bypass import bypassed
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import swapped
from sglp_core.repair.residual_writes import CannotFold, LayerCall, Write
from sglp_core.structure.layer_calls import KeywordArguments, layer_input, layer_output
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch, logits_of


class _Reached(Exception):
    """The forward pass has come as far as it is needed."""


@dataclass(frozen=True)
class CutStreams:
    """One batch at a cut, a row `[N, D]` for every position that is not padding.

    `target` is the stream of the dense model after the cut, and `pruned` the stream of the pruned model, which lacks
    what the removed layers added. `written` is what the last write before the cut added to it, computed from its input
    `entered` `[N, F]` (both None where no write was named). `first` marks the first position of each text.
    """

    target: Tensor
    pruned: Tensor
    written: Tensor | None
    entered: Tensor | None
    first: Tensor


@torch.no_grad()
def cut_streams(layered: LayeredModel, batch: Batch, variant: Variant, run: Run, write: Write | None) -> CutStreams:
    """Run the dense model up to the end of a removed run, and the variant up to its start."""
    model, layers, changes = layered.model, layered.layers, variant.changes
    moved = batch.to(model.device)
    kept: dict[str, Tensor] = {}
    before = [i for i in variant.removed if i < run.start]
    # Up to the first cut the pruned model is the dense one.
    same = not before and not changes

    def keep_target(_module: nn.Module, _args: Any, output: Any) -> None:
        kept["target"] = layer_output(output)
        raise _Reached

    def keep_pruned(_module: nn.Module, args: tuple[Any, ...], kwargs: KeywordArguments) -> None:
        kept["pruned"] = layer_input(args, kwargs)
        if not same:
            raise _Reached

    def keep_write(_module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        kept["entered"], kept["written"] = args[0], layer_output(output)

    def at_the_start() -> list[Any]:
        handles = [layers[run.start].register_forward_pre_hook(keep_pruned, with_kwargs=True)]
        return handles + ([model.get_submodule(write.module).register_forward_hook(keep_write)] if write else [])

    _until(model, moved, [layers[run.stop - 1].register_forward_hook(keep_target), *(at_the_start() if same else [])])
    if not same:
        with bypassed(layers, before), swapped(model, changes):
            _until(model, moved, at_the_start())

    pruned = kept["pruned"]
    if pruned.ndim != 3:
        raise CannotFold(
            f"the stream between layers has {pruned.ndim} dimensions; it must be [batch, position, channel]"
        )
    mask = moved.inputs.get("attention_mask")
    counted = torch.ones(pruned.shape[:2], dtype=torch.bool, device=pruned.device) if mask is None else mask.bool()
    first = torch.zeros_like(counted)
    first[:, 0] = mask is not None
    return CutStreams(
        target=kept["target"][counted],
        pruned=pruned[counted],
        written=kept["written"].reshape(pruned.shape)[counted] * write.gain if write else None,
        entered=kept["entered"].reshape(*pruned.shape[:2], -1)[counted] if write else None,
        first=first[counted],
    )


@torch.no_grad()
def calls_of(layered: LayeredModel, batch: Batch) -> list[LayerCall]:
    """The arguments of every layer's call on this batch."""
    calls: list[LayerCall] = []
    with ExitStack() as stack:
        for layer in layered.layers:
            handle = layer.register_forward_pre_hook(
                lambda _m, args, kwargs: calls.append(LayerCall(args, kwargs)), with_kwargs=True
            )
            stack.callback(handle.remove)
        logits_of(layered.model, batch.to(layered.model.device))
    return calls


def _until(model: Any, batch: Batch, handles: list[Any]) -> None:
    try:
        logits_of(model, batch)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()

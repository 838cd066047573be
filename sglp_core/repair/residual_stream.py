"""The residual stream at a cut: what the dense model hands on there, and what the pruned model has instead."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.removal.bypass import Skipper
from sglp_core.removal.variant import Variant
from sglp_core.removal.weight_changes import swapped
from sglp_core.repair.residual_writes import Call, NoForm, Write
from sglp_core.structure.layer_calls import KeywordArguments, layer_input, layer_output
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch, logits_of


class _Reached(Exception):
    """The forward pass has come as far as it is needed."""


@dataclass(frozen=True)
class CutStreams:
    """One batch at a cut, a row `[N, D]` for every position that is not padding.

    `wanted` is what the dense model hands on behind the cut, `given` what enters the cut in the pruned model, and
    `written` what the layer before the cut added last, made from what `entered` that write, `[N, F]` (both None where
    no write was named). `first` marks the first position of each text.
    """

    wanted: Tensor
    given: Tensor
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

    def hand_on(_module: nn.Module, _args: Any, output: Any) -> None:
        kept["wanted"] = layer_output(output)
        raise _Reached

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: KeywordArguments) -> None:
        kept["given"] = layer_input(args, kwargs)
        if not same:
            raise _Reached

    def wrote(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        kept["entered"], kept["written"] = args[0], output

    def at_the_start() -> list[Any]:
        handles = [layers[run.start].register_forward_pre_hook(enter, with_kwargs=True)]
        return handles + ([model.get_submodule(write.module).register_forward_hook(wrote)] if write else [])

    skipper = Skipper(model, layers)
    with skipper.watched():
        _until(model, moved, [layers[run.stop - 1].register_forward_hook(hand_on), *(at_the_start() if same else [])])
    if not same:
        with skipper.without(before, changes), swapped(model, changes):
            _until(model, moved, at_the_start())

    given = kept["given"]
    if given.ndim != 3:
        raise NoForm(f"the stream between layers has {given.ndim} dimensions; only [batch, position, channel] is known")
    mask = moved.inputs.get("attention_mask")
    counted = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device) if mask is None else mask.bool()
    first = torch.zeros_like(counted)
    first[:, 0] = mask is not None
    return CutStreams(
        wanted=kept["wanted"][counted],
        given=given[counted],
        written=kept["written"].reshape(given.shape)[counted] * write.gain if write else None,
        entered=kept["entered"].reshape(*given.shape[:2], -1)[counted] if write else None,
        first=first[counted],
    )


@torch.no_grad()
def calls_of(layered: LayeredModel, batch: Batch) -> list[Call]:
    """What every layer is called with on this batch."""
    calls: list[Call] = []
    with ExitStack() as stack:
        for layer in layered.layers:
            handle = layer.register_forward_pre_hook(
                lambda _m, args, kwargs: calls.append(Call(args, kwargs)), with_kwargs=True
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

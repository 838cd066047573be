"""Healing with `lora` trains a low-rank update of every linear layer that stays (LoRA, arXiv 2106.09685).

The updates are added to what the model computes only while the student runs, so the dense model stays the teacher as it
is; the result is the same weights with the updates merged in.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import owners
from sglp_core.structure.layer_stack import layer_names

RANK = 16


class Adapters:
    """One low-rank update for each linear layer that stays, in float32; without effect before training."""

    def __init__(self, model: LayeredModel, pruned: Variant, seed: int) -> None:
        """Start from the variant `pruned`; one of each pair of factors is drawn from `seed`, the other is 0."""
        self._linear = linear_layers(model, pruned.removed)
        self.names = tuple(f"{name}.weight" for name in self._linear)
        self._model, self._pruned = model, pruned
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._updates = {name: _update(layer, model.device) for name, layer in self._linear.items()}
        self.tensors: dict[str, Tensor] = {
            f"{name}.{factor}": parameter
            for name, update in self._updates.items()
            for factor, parameter in update.named_parameters()
        }

    @property
    def state(self) -> dict[str, Tensor]:
        return self.tensors

    @contextmanager
    def student(self) -> Iterator[Any]:
        """The pruned model with the updates, inside the `with` statement; gradients flow to them."""
        with ExitStack() as stack:
            for name, layer in self._linear.items():
                handle = layer.register_forward_hook(partial(_add, self._updates[name]))
                stack.callback(handle.remove)
            yield stack.enter_context(self._model.whole(self._pruned))

    def changes(self) -> dict[str, Tensor]:
        """The weights with the updates merged in, and the changes of the variant that training started from.

        They are in CPU memory where the model's weights are not all on the device.
        """
        merged = {}
        for name, stored in self._model.stored(self.names):
            weight = self._pruned.changes.get(name, stored).to(self._model.device)
            module = name.removesuffix(".weight")
            down, up = self._updates[module].parameters()
            # Conv1D holds its weight transposed.
            update = (up @ down).T if isinstance(self._linear[module], Conv1D) else up @ down
            changed = (weight.float() + update).to(weight.dtype).contiguous()
            merged[name] = changed if self._model.weights.resident else changed.cpu()
        return {**self._pruned.changes, **merged}


def _update(linear: Any, device: torch.device) -> nn.Sequential:
    """Two factors that map the input of a linear layer to what is added to its output; the second is 0."""
    width_in, width_out = linear.weight.shape if isinstance(linear, Conv1D) else linear.weight.shape[::-1]
    down = nn.Linear(width_in, RANK, bias=False, dtype=torch.float32)
    up = nn.Linear(RANK, width_out, bias=False, dtype=torch.float32)
    # As peft draws them, so that a healing can be compared with one by peft.
    down.reset_parameters()
    nn.init.zeros_(up.weight)
    for factor in (down, up):
        factor.weight.data = factor.weight.data.to(device)
    return nn.Sequential(down, up)


def _add(update: nn.Module, _linear: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    added: Tensor = update(args[0].float())
    return (output + added).to(output.dtype)


def linear_layers(layered: LayeredModel, removed: Sequence[int] = ()) -> dict[str, nn.Module]:
    """The linear layers inside the kept layers, by name, without those that share their weight with another."""
    model, gone = layered.model, set(removed)
    kept = tuple(f"{name}." for index, name in enumerate(layer_names(model, layered.path)) if index not in gone)
    return {
        name: module
        for name, module in model.named_modules()
        # Only the two exact classes: a subclass may use its weight in another way.
        if name.startswith(kept) and type(module) in {nn.Linear, Conv1D} and owners(model, module.weight) == 1
    }

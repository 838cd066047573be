"""Healing with `lora` trains a low-rank update of every linear layer that stays (LoRA, arXiv 2106.09685).

The adapters are peft's. They are in the model only while the student runs, so the dense model stays the teacher as it
is; the result is the same weights with the updates merged in.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import owners
from sglp_core.structure.layer_stack import layer_names
from sglp_core.tasks import Batch, logits_of

RANK = 16
ADAPTER = "healing"


class Adapters:
    """One adapter for each linear layer that stays, in float32; without effect before training."""

    def __init__(self, model: LayeredModel, pruned: Variant, seed: int) -> None:
        """Start from the variant `pruned`; one of each pair of factors is drawn from `seed`, the other is 0."""
        targets = linear_layers(model, pruned.removed)
        self.names = tuple(f"{name}.weight" for name in targets)
        self._model, self._start = model.model, pruned.changes
        self._adapted = _adapted(targets, seed)
        self.tensors = {
            f"{name}.{own}": parameter
            for name, layer in self._adapted.items()
            for own, parameter in layer.named_parameters()
            if parameter.requires_grad
        }

    def logits(self, batch: Batch) -> Tensor:
        """Logits of the model with the adapters, with gradients."""
        with self._in_place():
            return logits_of(
                self._model, batch, {self._name_in_place(name): value for name, value in self._start.items()}
            )

    def changes(self) -> dict[str, Tensor]:
        """The weights with the adapters merged in, and the changes of the variant that training started from."""
        merged = {}
        for name, layer in self._adapted.items():
            weight = self._start.get(f"{name}.weight", layer.get_base_layer().weight)
            merged[f"{name}.weight"] = (weight.float() + layer.get_delta_weight(ADAPTER)).to(weight.dtype).contiguous()
        return {**self._start, **merged}

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The model with the adapters around its linear layers."""
        try:
            for name, layer in self._adapted.items():
                self._model.set_submodule(name, layer)
            yield
        finally:
            for name, layer in self._adapted.items():
                self._model.set_submodule(name, layer.get_base_layer())

    def _name_in_place(self, name: str) -> str:
        """The name of a parameter while the adapters are in place."""
        module, _, own = name.rpartition(".")
        return f"{module}.base_layer.{own}" if module in self._adapted else name


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


def _adapted(targets: dict[str, nn.Module], seed: int) -> dict[str, Any]:
    """An adapter of peft, whose layers come without types, around each linear layer; the model keeps those."""
    adapted = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for kind in (nn.Linear, Conv1D):
            names = [name for name, module in targets.items() if type(module) is kind]
            if not names:
                continue
            # Conv1D holds its weight transposed. With a scale of 1 only the learning rate sets the size of a step.
            config = peft.LoraConfig(
                r=RANK, lora_alpha=RANK, target_modules=r"\d+", fan_in_fan_out=kind is Conv1D, bias="none"
            )
            # peft changes the module that it adapts layers of, so it gets a list and not the model.
            hosts = nn.ModuleList(targets[name] for name in names)
            peft.inject_adapter_in_model(config, hosts, ADAPTER)
            for name, layer in zip(names, hosts, strict=True):
                layer.lora_A.float()
                layer.lora_B.float()
                adapted[name] = layer
    return adapted

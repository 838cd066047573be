"""What healing trains with `lora`: an update of low rank for every linear layer that stays (arXiv 2106.09685).

The layers are peft's. They stand in the model only while the student runs, so the dense model that teaches and judges
is never anything but itself; what is handed back are the same weights with the updates merged in.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sglp_core.removal.variant import Variant
from sglp_core.removal.weight_changes import owners
from sglp_core.structure.layer_stack import layer_names
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.tasks import Batch, logits_of

RANK = 16
ADAPTER = "healing"


class Adapters:
    """One adapter for each linear layer, in float32 and without effect before it is trained."""

    def __init__(self, model: LayeredModel, pruned: Variant, seed: int) -> None:
        """Start from the variant `pruned` of the model; one of each pair of factors is drawn from `seed`."""
        targets = linear_layers(model, pruned.removed)
        self.names = tuple(f"{name}.weight" for name in targets)
        self._model, self._given = model.model, pruned.changes
        self._adapted = _adapted(targets, seed)
        self.tensors = {
            f"{name}.{own}": parameter
            for name, layer in self._adapted.items()
            for own, parameter in layer.named_parameters()
            if parameter.requires_grad
        }

    def logits(self, batch: Batch) -> Tensor:
        """Of the model with the adapters as they are, with gradients."""
        with self._in_place():
            return logits_of(self._model, batch, {self._inner(name): value for name, value in self._given.items()})

    def changes(self) -> dict[str, Tensor]:
        """What the model's weights would be with the adapters merged in, those given included."""
        merged = {}
        for name, layer in self._adapted.items():
            weight = self._given.get(f"{name}.weight", layer.get_base_layer().weight)
            merged[f"{name}.weight"] = (weight.float() + layer.get_delta_weight(ADAPTER)).to(weight.dtype).contiguous()
        return {**self._given, **merged}

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

    def _inner(self, name: str) -> str:
        """What a parameter is called while the adapters are in place."""
        module, _, own = name.rpartition(".")
        return f"{module}.base_layer.{own}" if module in self._adapted else name


def linear_layers(layered: LayeredModel, removed: Sequence[int] = ()) -> dict[str, nn.Module]:
    """Linear layers of the stack's kept layers by name; those that share their weight with another are none of them."""
    model, gone = layered.model, set(removed)
    kept = tuple(f"{name}." for index, name in enumerate(layer_names(model, layered.path)) if index not in gone)
    return {
        name: module
        for name, module in model.named_modules()
        # A subclass may use its weight in ways of its own.
        if name.startswith(kept) and type(module) in {nn.Linear, Conv1D} and owners(model, module.weight) == 1
    }


def _adapted(targets: dict[str, nn.Module], seed: int) -> dict[str, Any]:
    """Each linear layer inside an adapter of its own; the model they came from keeps the bare ones."""
    adapted = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for kind in (nn.Linear, Conv1D):
            names = [name for name, module in targets.items() if type(module) is kind]
            if not names:
                continue
            # Conv1D holds its weight transposed. A scale of 1 leaves the learning rate alone to say how far steps go.
            config = peft.LoraConfig(
                r=RANK, lora_alpha=RANK, target_modules=r"\d+", fan_in_fan_out=kind is Conv1D, bias="none"
            )
            # peft leaves traces in what it adapts; in this list nobody meets them.
            hosts = nn.ModuleList(targets[name] for name in names)
            peft.inject_adapter_in_model(config, hosts, ADAPTER)
            for name, layer in zip(names, hosts, strict=True):
                layer.lora_A.float()
                layer.lora_B.float()
                adapted[name] = layer
    return adapted

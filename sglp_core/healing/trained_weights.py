"""Weights that healing trains as they are: some, or all that stay."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.structure.layer_stack import layer_names

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class TrainedWeights:
    """Copies of the trained parameters, in float32 because half precision loses the small steps of an optimiser.

    `state` also has the statistics of the batch norms that train.
    """

    def __init__(self, model: LayeredModel, pruned: Variant, names: Sequence[str], batch_norms: Sequence[str] = ()):
        """Start from the variant `pruned`. The `batch_norms` normalise by their batch, and average what they see."""
        self._model, self._pruned, self._batch_norms = model, pruned, batch_norms
        self.tensors = {
            name: pruned.changes.get(name, stored).detach().to(model.device, torch.float32, copy=True).requires_grad_()
            for name, stored in model.stored(names)
        }
        self._statistics = {
            name: pruned.changes.get(name, stored).detach().to(model.device, copy=True)
            for name, stored in model.stored([f"{norm}.{each}" for norm in batch_norms for each in STATISTICS])
        }
        self.names = (*self.tensors, *self._statistics)

    @property
    def state(self) -> dict[str, Tensor]:
        return {**self.tensors, **self._statistics}

    @contextmanager
    def student(self) -> Iterator[Any]:
        """The pruned model with the trained tensors inside the `with` statement; gradients flow to them."""
        with self._model.whole(Variant(self._pruned.removed, self.changes())) as student:
            norms = [student.get_submodule(name) for name in self._batch_norms]
            try:
                for norm in norms:
                    norm.training = True
                yield student
            finally:
                for norm in norms:
                    norm.training = False

    def changes(self) -> dict[str, Tensor]:
        """The trained weights, and the changes of the variant that training started from."""
        trained = {name: tensor.to(self._model.weights.stored_type(name)) for name, tensor in self.tensors.items()}
        return {**self._pruned.changes, **trained, **self._statistics}


def names_that_stay(layered: LayeredModel, removed: Sequence[int]) -> tuple[str, ...]:
    """All parameters but those of the removed layers; what is tied has one name."""
    layers = layer_names(layered.model, layered.path)
    gone = tuple(f"{layers[index]}." for index in removed)
    return tuple(name for name, _ in layered.model.named_parameters() if not name.startswith(gone))

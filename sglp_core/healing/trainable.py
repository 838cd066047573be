"""What a healing trains of a pruned model: some of its weights, all, or updates of low rank."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.healing.lora import Adapters
from sglp_core.healing.neighbouring_layers import names_near_cuts
from sglp_core.healing.trained_weights import TrainedWeights, names_that_stay
from sglp_core.options import Trained
from sglp_core.structure.batch_norms import batch_norms_that_stay
from sglp_core.tasks import Batch


class Trainable(Protocol):
    """The trained part of a pruned model: leaf `tensors` in float32, and the `names` of the weights that they become.

    `state` is everything that a step changes, the tensors among it.
    """

    names: tuple[str, ...]
    tensors: dict[str, Tensor]

    @property
    def state(self) -> Mapping[str, Tensor]: ...
    def student(self) -> AbstractContextManager[Any]: ...
    def changes(self) -> dict[str, Tensor]: ...


def trainable_of(
    model: LayeredModel, pruned: Variant, trained: Trained, seed: int, example: Batch, fewest_samples: int
) -> Trainable:
    """What of the variant is trained; its random draws are from `seed`.

    An `example` of the input shows what follows the layers. `fewest_samples` are those of the smallest part that goes
    through the model at a time.
    """
    if trained == "lora":
        return Adapters(model, pruned, seed)
    if trained == "neighbours":
        return TrainedWeights(model, pruned, names_near_cuts(model, pruned.removed, example))
    # One image may be one pixel, of which there is no variance; and layers that come to the device run twice a step.
    averages = model.weights.resident and fewest_samples > 1
    norms = batch_norms_that_stay(model.model, model.path, pruned.removed) if averages else {}
    return TrainedWeights(model, pruned, names_that_stay(model, pruned.removed), tuple(norms))

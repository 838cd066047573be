"""The peak memory of a job, counted without weights.

The model runs on fake tensors, which have a shape and no memory, and everything that measuring would keep for the
backward pass is added up. The fake tensors are on the CPU, so that attention uses its implementation for the CPU.
"""

import math
from collections.abc import Callable

import psutil
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sglp_core.estimation.healing_memory import healing_bytes
from sglp_core.estimation.model_outline import Outline
from sglp_core.options import Options
from sglp_core.structure.layer_stack import example_inputs, layers_of
from sglp_core.structure.model_class import untrained_model
from sglp_core.tasks import logits_in

LOGIT_BYTES = 4
PIXEL_BYTES = 4


def expected_memory(outline: Outline, removed: int, options: Options) -> dict[str, int | None]:
    """Bytes at the peak of `measuring` and of `healing`, with the interpreter as it is now, the weights, and all
    images, preprocessed. Tokens of texts are too small to count.

    None where the model's computation depends on the values of its input, which fake tensors do not have.
    """
    samples = options.calibration.samples + options.evaluation.samples
    images = samples * math.prod(outline.image_shape) * PIXEL_BYTES if outline.image_shape else 0
    everywhere = int(psutil.Process().memory_info().rss) + outline.weight_bytes + images
    phases: dict[str, Callable[[], int]] = {
        "measuring": lambda: measuring_bytes(outline, options.calibration.batch_size)
    }
    if options.healing.trains:
        phases["healing"] = lambda: healing_bytes(outline, removed, options)
    expected: dict[str, int | None] = {}
    for name, beside in phases.items():
        try:
            expected[name] = everywhere + beside()
        except (DataDependentOutputException, DynamicOutputShapeException):
            expected[name] = None
    return expected


def measuring_bytes(outline: Outline, batch_size: int) -> int:
    """Bytes of the activations kept of one batch, and of the gradients of its logits and of one layer."""
    kept, logits = saved_for_backward(outline, batch_size)
    width = outline.weight_bytes // outline.stack.total_parameters
    return kept + 2 * logits + max(layer.parameters for layer in outline.stack.layers) * width


def saved_for_backward(outline: Outline, batch_size: int) -> tuple[int, int]:
    """Bytes that one batch's forward pass keeps for the backward pass of the layers, and bytes of its logits."""
    # Built outside of the fake mode: some models compute with the values of tensors while they are built.
    model = untrained_model(outline.config, "meta", attention=None, dtype=outline.torch_dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        layers_of(model, outline.stack.path).requires_grad_(True)
        own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
        kept: dict[int, int] = {}
        # A storage without memory is recognised by its identity, which is unique only while it is alive.
        alive: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
                alive.append(tensor)
            return tensor

        # One sample: with several, some models read the values of their masks.
        inputs = example_inputs(model, outline.stack.sequence_length, outline.image_shape)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = logits_in(model(**inputs))
    return batch_size * sum(kept.values()), batch_size * logits.numel() * LOGIT_BYTES

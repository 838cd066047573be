"""The peak memory of a job, counted without weights.

The model is run on tensors that have a shape and no memory, and everything that the backward pass would keep is added
up. They say that they lie on the CPU, so that attention takes the way it takes there.
"""

import math

import psutil
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sglp_core.estimation.model_outline import Outline
from sglp_core.structure.layer_stack import example_inputs, layers_of
from sglp_core.structure.model_class import untrained

LOGIT_BYTES = 4
PIXEL_BYTES = 4


def peak_bytes(outline: Outline, batch_size: int, samples: int) -> int | None:
    """The interpreter as it is now, the weights, what a batch keeps, the gradient of its logits and of one layer, and
    all images, which are held as the model takes them; the tokens of a text are too few to count.

    None where what the model computes hangs on the values of its input, which are not known.
    """
    try:
        kept, logits = saved_for_backward(outline, batch_size)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return None
    width = outline.weight_bytes // outline.stack.total_parameters
    layer = max(layer.parameters for layer in outline.stack.layers) * width
    images = samples * math.prod(outline.image_shape) * PIXEL_BYTES if outline.image_shape else 0
    return int(psutil.Process().memory_info().rss) + outline.weight_bytes + kept + 2 * logits + layer + images


def saved_for_backward(outline: Outline, batch_size: int) -> tuple[int, int]:
    """Bytes that one batch's forward pass keeps for the backward pass of the layers, and bytes of its logits."""
    # Built before, as some models compute with the values of tensors while they are built.
    model = untrained(outline.config, "meta", attention=None, dtype=outline.torch_dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        layers_of(model, outline.stack.path).requires_grad_(True)
        own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
        kept: dict[int, int] = {}
        # A storage without memory is told apart by its identity, and must stay alive for that.
        alive: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
                alive.append(tensor)
            return tensor

        # One sample: with more, some models ask for the values of their masks.
        inputs = example_inputs(model, outline.stack.sequence_length, outline.image_shape)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(**inputs).logits
    return batch_size * sum(kept.values()), batch_size * logits.numel() * LOGIT_BYTES

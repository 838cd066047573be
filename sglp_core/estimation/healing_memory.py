"""The memory that a healing takes beside the dense model, counted without weights.

Buffers inside of a kernel are not seen; those of small convolutions in bfloat16 can be a third more on a CPU.
"""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sglp_core.data.token_windows import MASKED_SHARE
from sglp_core.estimation.counted_memory import CountedMemory
from sglp_core.estimation.model_outline import Outline
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import frozen
from sglp_core.healing.gradients import add_gradients
from sglp_core.healing.optimizer import new_optimizer, take_step
from sglp_core.healing.trainable import trainable_of
from sglp_core.options import Options
from sglp_core.structure.layer_stack import LayerStack, example_inputs
from sglp_core.structure.model_class import untrained_model
from sglp_core.structure.runs import Removed
from sglp_core.tasks import Batch, example_labels

# Of what is computed, the tensors below 32 MB come and go on the heap and leave holes between them. Measured: 0.4 to
# 0.9 of their size (ResNet-56). The least of it is added.
HOLES_SHARE = 0.4


def healing_bytes(outline: Outline, removed: int, options: Options) -> int:
    """Bytes at the peak of a step: what is trained, its gradients, the moments of the optimiser, the values that did
    best, and what is computed.

    The plan is not known yet. The last `removed` layers are assumed, which have the smallest activations where layers
    differ, so that others need no more. Raises `DataDependentOutputException` or `DynamicOutputShapeException` where
    the computation depends on values.
    """
    healing, at_once = options.healing, options.calibration.batch_size
    size = healing.batch_size or at_once
    model = untrained_model(outline.config, "meta", attention=None, dtype=outline.torch_dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        model.tie_weights()
        batch = _batch(outline, model, min(size, at_once))
        existing = [*model.state_dict().values(), *batch.inputs.values(), batch.labels]
        share = MASKED_SHARE if outline.task == "masked_lm" else 1.0
        pruned = Variant(last_layers(outline.stack, removed))
        layered = LayeredModel(model, outline.stack.path, outline.task)
        with CountedMemory(existing, share) as counted, frozen(model):
            trainable = trainable_of(layered, pruned, healing.trained, 0, batch, min(size, size % at_once or at_once))
            optimizer = new_optimizer(trainable.tensors.values(), healing)
            best = {name: tensor.detach().clone() for name, tensor in trainable.state.items()}
            add_gradients(layered, batch, trainable, healing, 1.0)
            take_step(optimizer)
            # Now there are moments; and the gradients of a first part wait for those of the next.
            for _ in range(min(2, -(-size // at_once))):
                add_gradients(layered, batch, trainable, healing, 1.0)
            lasting = counted.heap_bytes
            take_step(optimizer)
            # What is judged: with updates of low rank these are weights of their own.
            trainable.changes()
            best.clear()
    return int(counted.peak_bytes + HOLES_SHARE * max(0, counted.heap_bytes_at_peak - lasting))


def _batch(outline: Outline, model: torch.nn.Module, samples: int) -> Batch:
    """Zeros, and a label wherever one can be predicted."""
    examples: dict[str, Tensor] = example_inputs(model, outline.stack.sequence_length, outline.image_shape)
    inputs = {name: torch.zeros(samples, *each.shape[1:], dtype=each.dtype) for name, each in examples.items()}
    if "input_ids" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return Batch(inputs, example_labels(inputs, outline.task, getattr(outline.config, "num_labels", 0)))


def last_layers(stack: LayerStack, count: int) -> Removed:
    """So many layers that can be removed together, as near to the end as they can be; fewer where there are not."""
    chosen: Removed = ()
    for index in reversed(range(len(stack))):
        together = (index, *chosen)
        if len(chosen) < count and stack.can_remove(together):
            chosen = together
    return chosen

"""What the dense model predicts for samples that have no labels, so that accuracy is agreement with it."""

import torch
from torch import Tensor

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import logits_of_one
from sglp_core.execution.mapped_tensor import mapped_tensor
from sglp_core.tasks import IGNORED, Batch, Task

LABELLED_AT_ONCE = 16
# So many go through the layers together, where those come from disk. Their hidden states are kept until then.
WALKED_TOGETHER = 64 * LABELLED_AT_ONCE


@torch.no_grad()
def predicted_labels(model: LayeredModel, inputs: dict[str, Tensor], special: Tensor | None = None) -> Tensor:
    """The labels of N samples in a mapped file, as `Batch` has them for the task of the model.

    `special` `[N, T]` is 1 at the tokens of texts that are padding, or that the tokenizer has added. Raises
    `InsufficientStorage`.
    """
    count = len(next(iter(inputs.values())))
    samples = Batch(inputs, torch.zeros(count) if special is None else special)
    labels: Tensor | None = None
    first = 0
    for part in samples.split(WALKED_TOGETHER):
        batches = list(part.split(LABELLED_AT_ONCE))
        for batch, logits in zip(batches, logits_of_one(model, batches), strict=True):
            own = _labels(logits.cpu(), batch, model.task)
            if labels is None:
                labels = mapped_tensor((count, *own.shape[1:]), own.dtype, model.scratch, "the labels of the samples")
            labels[first : first + len(own)] = own
            first += len(own)
    assert labels is not None
    return labels


def _labels(logits: Tensor, batch: Batch, task: Task) -> Tensor:
    likely = logits.argmax(-1)
    return likely.masked_fill(batch.labels == 1, IGNORED) if task == "token_classification" else likely

"""What the dense model predicts for samples that have no labels, so that accuracy is agreement with it."""

import torch
from torch import Tensor

from sglp_core.errors import BadCalibration
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import logits_of_one
from sglp_core.execution.mapped_tensor import mapped_tensor
from sglp_core.tasks import ENDS, IGNORED, STARTS, Batch, Task

LABELLED_AT_ONCE = 16
# So many go through the layers together, where those come from disk. Their hidden states are kept until then.
WALKED_TOGETHER = 64 * LABELLED_AT_ONCE


@torch.no_grad()
def predicted_labels(model: LayeredModel, inputs: dict[str, Tensor], special: Tensor | None = None) -> Tensor:
    """The labels of N samples in a mapped file, as `Batch` has them for the task of the model.

    `special` `[N, T]` is 1 at the tokens of texts that are padding, or that the tokenizer has added. Raises
    `InsufficientStorage`, and `BadCalibration` where all scores are equal.
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
    if model.task == "text_regression":
        _add_spread(labels)
    return labels


def _labels(logits: Tensor, batch: Batch, task: Task) -> Tensor:
    match task:
        case "token_classification":
            return logits.argmax(-1).masked_fill(batch.labels == 1, IGNORED)
        case "multi_label_classification":
            return (logits > 0).long()
        case "text_regression":
            return logits.float().repeat(1, 2)
        case "question_answering":
            return _answers(logits, batch.inputs["attention_mask"])
        case "image_classification" | "text_classification" | "causal_lm" | "masked_lm":
            return logits.argmax(-1)


def _answers(logits: Tensor, attention_mask: Tensor) -> Tensor:
    padding = attention_mask == 0
    first, last = logits.masked_fill(padding[:, None], -torch.inf).argmax(-1).unbind(1)
    labels = torch.zeros_like(attention_mask).masked_fill(padding, IGNORED)
    rows = torch.arange(len(labels))
    labels[rows, first] += STARTS
    labels[rows, last] += ENDS
    return labels


def _add_spread(labels: Tensor) -> None:
    spread = labels[:, 0].std(correction=0)
    if not spread > 0:
        raise BadCalibration("the model gives all texts one score, so nothing can be said of their order; give others")
    labels[:, 1] = spread

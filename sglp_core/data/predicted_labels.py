"""What the dense model predicts for samples that have no labels, so that accuracy is agreement with it."""

import torch
from torch import Tensor

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import logits_of_one
from sglp_core.tasks import Batch

LABELLED_AT_ONCE = 16
# So many go through the layers together, where those come from disk. Their hidden states are kept until then.
WALKED_TOGETHER = 64 * LABELLED_AT_ONCE


@torch.no_grad()
def predicted_labels(model: LayeredModel, inputs: dict[str, Tensor]) -> Tensor:
    """The most likely class `[N]` of each of N samples."""
    samples = Batch(inputs, torch.zeros(len(next(iter(inputs.values())))))
    walks = (logits_of_one(model, list(part.split(LABELLED_AT_ONCE))) for part in samples.split(WALKED_TOGETHER))
    return torch.cat([logits.argmax(-1).cpu() for walk in walks for logits in walk])

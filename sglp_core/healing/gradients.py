"""The gradients of a step: of the mean loss on its samples, which go through the model in parts."""

import torch
from torch import Tensor, nn

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.healing.trainable import Trainable
from sglp_core.options import Healing
from sglp_core.tasks import Batch, aligned, logits_of, predictions, squared_errors


def find_gradients(model: LayeredModel, batch: Batch, at_once: int, trainable: Trainable, healing: Healing) -> None:
    """Give the trained tensors the gradients of the mean loss on a batch, of which so many samples are taken through
    the model at a time."""
    parts = [(part, predictions(part.labels, model.task)) for part in batch.split(at_once)]
    total = sum(count for _, count in parts)
    for part, count in parts:
        if count:
            add_gradients(model, model.on_device(part), trainable, healing, count / total)


def add_gradients(model: LayeredModel, batch: Batch, trainable: Trainable, healing: Healing, weight: float) -> None:
    """Add those of the loss on these samples, which are on the device, times their weight."""
    mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=healing.precision == "mixed")
    dense: Tensor | None = None
    if healing.alpha:
        with torch.no_grad(), model.whole() as teacher, mixed:
            dense, _ = aligned(logits_of(teacher, batch), batch.labels, model.task)
    with trainable.student() as student:
        with mixed:
            rows, labels = aligned(logits_of(student, batch), batch.labels, model.task)
        loss = loss_of_scores if model.task == "text_regression" else _loss
        (loss(rows.float(), labels, dense, healing) * weight).backward()


def _loss(rows: Tensor, labels: Tensor, dense: Tensor | None, healing: Healing) -> Tensor:
    """The mean over the rows, which are logits `[N, V]` as the `dense` model's are; it has none where alpha is 0."""
    loss = torch.zeros((), device=rows.device)
    if healing.alpha < 1:
        loss = (1 - healing.alpha) * nn.functional.cross_entropy(rows, labels, label_smoothing=healing.label_smoothing)
    if dense is not None:
        student, teacher = ((each.float() / healing.temperature).log_softmax(-1) for each in (rows, dense))
        divergence = nn.functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
        # Squared, because softening divides the gradients of the logits by it.
        loss = loss + healing.alpha * healing.temperature**2 * divergence
    return loss


def loss_of_scores(scores: Tensor, labels: Tensor, dense: Tensor | None, healing: Healing) -> Tensor:
    """`_loss` of scores `[N, 1]` in spreads, whose distributions are normal; softening them changes nothing."""
    loss = (1 - healing.alpha) * squared_errors(scores, labels).mean()
    return loss if dense is None else loss + healing.alpha * squared_errors(scores, dense[:, 0]).mean()

"""The shortest training loop in PyTorch with the loss, the data and the schedule of a healing, for comparison.

It trains a whole network of another shape than the dense one, which a healing cannot, and says what the library's own
loop costs beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.healing.learning_rate import LearningRate
from sglp_core.healing.optimizer import new_optimizer
from sglp_core.healing.training_samples import training_samples
from sglp_core.options import Healing
from sglp_core.tasks import Batch, Task, aligned, logits_of

JUDGED_AT_ONCE = 1000


def train(
    student: Any,
    teacher: Any,
    batches: Sequence[Batch],
    task: Task,
    healing: Healing,
    steps: int,
    seed: int,
    on_step: Callable[[int], None] = lambda _step: None,
) -> None:
    """Train all of the `student` for so many steps, and leave it in evaluation mode."""
    assert healing.batch_size
    device = next(student.parameters()).device
    optimizer = new_optimizer(student.parameters(), healing)
    rate = LearningRate(optimizer, healing.highest_rate, steps)
    samples: Iterator[Batch] = training_samples(batches, healing.batch_size, seed, 0, healing.augmentation)
    student.train()
    for step, batch in enumerate(islice(samples, steps), start=1):
        moved = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=healing.precision == "mixed"):
            logits, labels = aligned(logits_of(student, moved), moved.labels, task)
            with torch.no_grad():
                dense = aligned(logits_of(teacher, moved), moved.labels, task)[0] if healing.alpha else None
        _loss(logits.float(), labels, dense, healing).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        rate.advance()
        optimizer.zero_grad()
        on_step(step)
    student.eval()


def _loss(logits: Tensor, labels: Tensor, dense: Tensor | None, healing: Healing) -> Tensor:
    loss = torch.zeros((), device=logits.device)
    if healing.alpha < 1:
        loss = (1 - healing.alpha) * nn.functional.cross_entropy(
            logits, labels, label_smoothing=healing.label_smoothing
        )
    if dense is None:
        return loss
    softened = (logits / healing.temperature).log_softmax(-1), (dense.float() / healing.temperature).softmax(-1)
    return loss + healing.alpha * healing.temperature**2 * nn.functional.kl_div(*softened, reduction="batchmean")


@torch.no_grad()
def correct(model: Any, images: Tensor, labels: Tensor) -> int:
    """How many of the images the model names rightly."""
    device = next(model.parameters()).device
    parts = zip(images.split(JUDGED_AT_ONCE), labels.split(JUDGED_AT_ONCE), strict=True)
    return sum(int((model(pixel_values=x.to(device)).logits.argmax(-1).cpu() == y).sum()) for x, y in parts)

"""Quality on held-out data: perplexity, accuracy, agreement with the dense model and KL divergence from it.

Every variant is the dense model with layers bypassed and, once repaired, a few weights swapped, so one copy of the
model serves all variants. Verification proves that the written artifact equals its bypassed form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.progress import Phase, silent_phase
from sglp_core.removal.bypass import Skipper
from sglp_core.removal.variant import Variant
from sglp_core.removal.weight_changes import swapped
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.tasks import Batch, Task, aligned, logits_of


@dataclass(frozen=True)
class Quality:
    """Figures over positions: tokens, or images or texts to classify.

    `perplexity` is exp of the mean nats a position, `accuracy` the share of positions whose most likely answer is the
    label, `agreement` the share whose most likely answer is the dense model's, `kl` the mean KL(dense ‖ variant) in
    nats.
    """

    perplexity: float
    accuracy: float
    agreement: float
    kl: float

    def to_dict(self) -> dict[str, float | None]:
        """For reports: None for figures that are not finite, as a destroyed model in half precision has them."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


@torch.no_grad()
def evaluate(
    model: LayeredModel, batches: Sequence[Batch], variants: Mapping[str, Variant], progress: Phase | None = None
) -> dict[str, Quality]:
    """Quality of the dense model, under the name `dense`, and of each variant."""
    progress = progress or silent_phase()
    progress.start(len(batches), "batches")
    return run_variants(model.model, model, batches, variants, progress)


@singledispatch
def run_variants(
    model: Any, layered: LayeredModel, batches: Sequence[Batch], variants: Mapping[str, Variant], progress: Phase
) -> dict[str, Quality]:
    """`evaluate` for one type of model."""
    sums = {name: torch.zeros(4, dtype=torch.float64) for name in ("dense", *variants)}
    positions = 0
    skipper = Skipper(model, layered.layers)
    for batch in batches:
        moved = batch.to(model.device)
        with skipper.watched():
            dense, labels = log_probabilities(logits_of(model, moved), moved.labels, layered.task)
        positions += len(labels)
        sums["dense"] += compared(dense, dense, labels)
        for name, variant in variants.items():
            with skipper.without(variant.removed, variant.changes), swapped(model, variant.changes):
                rows, _ = log_probabilities(logits_of(model, moved), moved.labels, layered.task)
            sums[name] += compared(dense, rows, labels)
        progress.advance()
    return {name: quality_of(total, positions) for name, total in sums.items()}


def log_probabilities(logits: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Log-probabilities `[N, V]` and labels `[N]` of the positions that count."""
    rows, labels = aligned(logits, labels, task)
    return rows.float().log_softmax(-1), labels


def compared(dense: Tensor, variant: Tensor, labels: Tensor) -> Tensor:
    """Sums over positions, `[4]`: nats, correct answers, answers equal to the dense model's, KL from it."""
    nats = -variant.gather(-1, labels[:, None]).double().sum()
    top = variant.argmax(-1)
    correct = (top == labels).double().sum()
    agree = (dense.argmax(-1) == top).double().sum()
    divergence = nn.functional.kl_div(variant, dense, log_target=True, reduction="sum").double()
    return torch.stack([nats, correct, agree, divergence]).cpu()


def quality_of(total: Tensor, positions: int) -> Quality:
    """Quality from the sums of `compared` over a number of positions."""
    nats, correct, agree, divergence = (float(x) / positions for x in total)
    # exp overflows float64 above 709; so large a figure only says that the model is destroyed.
    return Quality(math.exp(min(nats, 700)), correct, agree, max(divergence, 0.0))

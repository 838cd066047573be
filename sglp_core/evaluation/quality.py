"""Quality before and after on held-out data: perplexity, accuracy, agreement with the dense model, divergence from it.

Every variant (the plan and the controls at the same layer count) is the dense model with those layers bypassed and, for
a repaired one, a few weights swapped, so one copy of the model serves them all; verification proves the written
artifact equal to its bypassed form.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import singledispatch
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.removal.bypass import Skipper
from sglp_core.removal.weight_changes import Changes, swapped
from sglp_core.tasks import Batch, Task, aligned, logits_of


@dataclass(frozen=True)
class Quality:
    """`perplexity` is exp of the mean nats a position (a token, or an image); `accuracy` the share of positions whose
    top-1 is the label; `agreement` the share with the dense model's top-1; `kl` the mean KL(dense ‖ variant) in nats.
    """

    perplexity: float
    accuracy: float
    agreement: float
    kl: float

    def to_dict(self) -> dict[str, float | None]:
        """For reports, where a figure that is not finite (a destroyed model in half precision) is none at all."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


@singledispatch
@torch.no_grad()
def evaluate(
    model: Any,
    layers: nn.ModuleList,
    batches: Iterable[Batch],
    task: Task,
    variants: Mapping[str, Sequence[int]],
    on_batch: Callable[[], None] = lambda: None,
    weights: Mapping[str, Changes] = MappingProxyType({}),
) -> dict[str, Quality]:
    """Quality of the dense model (under `dense`) and of each variant, a name for a set of removed layers.

    Variants named in `weights` are judged with those weights changed.
    """
    names = ["dense", *variants]
    sums = {name: torch.zeros(4, dtype=torch.float64) for name in names}
    positions = 0
    skipper = Skipper(model, layers)
    for batch in batches:
        moved = batch.to(model.device)
        with skipper.watched():
            dense, labels = log_probabilities(logits_of(model, moved), moved.labels, task)
        positions += len(labels)
        sums["dense"] += compared(dense, dense, labels)
        for name, removed in variants.items():
            changed = weights.get(name, {})
            with skipper.without(removed, changed), swapped(model, changed):
                sums[name] += compared(dense, log_probabilities(logits_of(model, moved), moved.labels, task)[0], labels)
        on_batch()
    return {name: quality_of(total, positions) for name, total in sums.items()}


def log_probabilities(logits: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Log-probabilities `[N, V]` and labels `[N]` of the positions that count."""
    rows, labels = aligned(logits, labels, task)
    return rows.float().log_softmax(-1), labels


def compared(dense: Tensor, variant: Tensor, labels: Tensor) -> Tensor:
    """Sums over positions: nats, right answers, answers that are the dense model's, divergence from it."""
    nats = -variant.gather(-1, labels[:, None]).double().sum()
    top = variant.argmax(-1)
    correct = (top == labels).double().sum()
    agree = (dense.argmax(-1) == top).double().sum()
    divergence = nn.functional.kl_div(variant, dense, log_target=True, reduction="sum").double()
    return torch.stack([nats, correct, agree, divergence]).cpu()


def quality_of(total: Tensor, positions: int) -> Quality:
    """Figures from the sums of `compared` over so many positions."""
    nats, correct, agree, divergence = (float(x) / positions for x in total)
    # Beyond e^700 a float64 overflows; the figure only says that the model is destroyed.
    return Quality(math.exp(min(nats, 700)), correct, agree, max(divergence, 0.0))

"""Quality on held-out data: perplexity, accuracy, agreement with the dense model and KL divergence from it.

Every variant is the dense model with layers bypassed and, once repaired, a few weights swapped, so one copy of the
model serves all variants. Verification proves that the written artifact equals its bypassed form.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import WHOLE, Pieces, Trial, logits_of_variants
from sglp_core.execution.variant import Variant
from sglp_core.progress import Phase, silent_phase
from sglp_core.tasks import Batch, Task, aligned


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


def evaluate(
    model: LayeredModel, batches: Sequence[Batch], variants: Mapping[str, Variant], progress: Phase | None = None
) -> dict[str, Quality]:
    """Quality of the dense model, under the name `dense`, and of each variant; no weights change."""
    total = {name: torch.zeros(4, dtype=torch.float64, device=model.device) for name in ("dense", *variants)}
    positions = 0
    for sums, count in _sums_of_batches(model, batches, variants, progress or silent_phase(), WHOLE):
        total = {name: each + sums[name] for name, each in total.items()}
        positions += count
    return {name: quality_of(each, positions) for name, each in total.items()}


def evaluate_batches(
    model: LayeredModel, batches: Sequence[Batch], variants: Mapping[str, Variant], trial: Trial = WHOLE
) -> list[dict[str, Quality]]:
    """As `evaluate`, of each batch by itself, as a `trial`."""
    results = _sums_of_batches(model, batches, variants, silent_phase(), trial)
    return [{name: quality_of(each, count) for name, each in sums.items()} for sums, count in results]


@torch.no_grad()
def _sums_of_batches(
    model: LayeredModel, batches: Sequence[Batch], variants: Mapping[str, Variant], progress: Phase, trial: Trial
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """For each batch the sums of `compared_with_first` by the name of the variant, and the number of positions."""
    all_variants = {"dense": Variant(), **variants}
    for pieces in logits_of_variants(model, batches, list(all_variants.values()), progress, trial):
        sums, positions = compared_with_first(pieces, model.task)
        yield dict(zip(all_variants, sums, strict=True)), positions


def compared_with_first(pieces: Pieces, task: Task) -> tuple[Tensor, int]:
    """Sums over the positions of one batch, a row `[4]` for each variant, and the number of positions.

    The sums are nats, correct answers, answers equal to those of the first variant, and the KL divergence from it.
    """
    total, positions = torch.zeros(()), 0
    for labels, logits in pieces:
        first: Tensor | None = None
        sums = []
        for each in logits:
            rows, targets = aligned(each, labels, task)
            log_probabilities = rows.float().log_softmax(-1)
            first = log_probabilities if first is None else first
            sums.append(_compared(first, log_probabilities, targets))
        total = total.to(sums[0].device) + torch.stack(sums)
        positions += len(targets)
    return total, positions


def _compared(dense: Tensor, variant: Tensor, labels: Tensor) -> Tensor:
    nats = -variant.gather(-1, labels[:, None]).double().sum()
    top = variant.argmax(-1)
    correct = (top == labels).double().sum()
    agree = (dense.argmax(-1) == top).double().sum()
    divergence = nn.functional.kl_div(variant, dense, log_target=True, reduction="sum").double()
    return torch.stack([nats, correct, agree, divergence])


def quality_of(total: Tensor, positions: int) -> Quality:
    """Quality from the sums of `compared_with_first` over a number of positions."""
    nats, correct, agree, divergence = (float(x) / positions for x in total.tolist())
    # exp overflows float64 above 709; so large a figure only says that the model is destroyed.
    return Quality(math.exp(min(nats, 700)), correct, agree, max(divergence, 0.0))

"""Quality on held-out data: perplexity, accuracy, agreement with the dense model and KL divergence from it.

Every variant is the dense model with layers bypassed and, once repaired, a few weights swapped, so one copy of the
model serves all variants. Verification proves that the written artifact equals its bypassed form.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import WHOLE, Trial, logits_of_variants
from sglp_core.execution.variant import Variant
from sglp_core.execution.variants import Piece
from sglp_core.progress import Phase, silent_phase
from sglp_core.tasks import Batch, Task, aligned, predicted, squared_errors

# Columns of `compared_with_first`.
NATS, CORRECT, AGREE, KL, POSITIONS = range(5)


@dataclass(frozen=True)
class Quality:
    """Figures over positions: tokens, images or texts to classify, labels of a text, or the two ends of an answer.

    `perplexity` is exp of the mean nats a position, `accuracy` the share of positions whose most likely answer is the
    label, `agreement` the share whose most likely answer is the dense model's, `kl` the mean KL(dense ‖ variant) in
    nats. Of a model that scores texts, nats and KL are half of the squared error in spreads of its scores, and the two
    shares are those of pairs of texts in a batch whose order is that of the labels, and of the dense model.
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
    sums = evaluate_samples(model, batches, variants, progress)
    return {name: quality_of(each.sum(0)) for name, each in sums.items()}


def evaluate_samples(
    model: LayeredModel, batches: Sequence[Batch], variants: Mapping[str, Variant], progress: Phase | None = None
) -> dict[str, Tensor]:
    """As `evaluate`, but the sums of `compared_with_first` of every sample `[N, 5]`, on the CPU."""
    results = list(_sums_of_batches(model, batches, variants, progress or silent_phase(), WHOLE))
    return {name: torch.cat([sums[name].cpu() for sums in results]) for name in ("dense", *variants)}


def evaluate_batches(
    model: LayeredModel, batches: Sequence[Batch], variants: Mapping[str, Variant], trial: Trial = WHOLE
) -> list[dict[str, Quality]]:
    """As `evaluate`, of each batch by itself, as a `trial`."""
    results = _sums_of_batches(model, batches, variants, silent_phase(), trial)
    return [{name: quality_of(each.sum(0)) for name, each in sums.items()} for sums in results]


@torch.no_grad()
def _sums_of_batches(
    model: LayeredModel, batches: Sequence[Batch], variants: Mapping[str, Variant], progress: Phase, trial: Trial
) -> Iterator[dict[str, Tensor]]:
    """For each batch the sums of `compared_with_first` by the name of the variant."""
    all_variants = {"dense": Variant(), **variants}
    for pieces in logits_of_variants(model, batches, list(all_variants.values()), progress, trial):
        yield dict(zip(all_variants, compared_with_first(pieces, model.task), strict=True))


def compared_with_first(pieces: Iterable[Piece], task: Task) -> Tensor:
    """Sums over the positions of each sample of one batch, for each variant, `[V, B, 5]`.

    The sums are nats, correct answers, answers equal to those of the first variant, the KL divergence from it, and
    positions.
    """
    total: dict[int, Tensor] = {}
    for piece in pieces:
        first: Tensor | None = None
        sums = []
        for each in piece.logits:
            rows, targets = aligned(each, piece.labels, task)
            compared = _compared_scores if task == "text_regression" else _compared
            answers = rows if task == "text_regression" else rows.float().log_softmax(-1)
            first = answers if first is None else first
            sums.append(_by_sample(compared(first, answers, targets), predicted(piece.labels, task)))
        # A sample may come in several pieces.
        total[piece.first] = total.get(piece.first, 0) + torch.stack(sums)
    return torch.cat(list(total.values()), 1)


def _compared(dense: Tensor, variant: Tensor, labels: Tensor) -> Tensor:
    """The figures of every position `[N, 5]`."""
    nats = -variant.gather(-1, labels[:, None])[:, 0]
    top = variant.argmax(-1)
    divergence = nn.functional.kl_div(variant, dense, log_target=True, reduction="none").sum(-1)
    figures = [nats, top == labels, dense.argmax(-1) == top, divergence, torch.ones_like(nats)]
    return torch.stack([figure.double() for figure in figures], -1)


def _compared_scores(dense: Tensor, variant: Tensor, labels: Tensor) -> Tensor:
    """The figures of every text `[N, 5]`, from scores `[N, 1]` in spreads; its pairs are those with all others."""
    order, labelled, agreed = ((each[:, None] - each).sign() for each in (variant[:, 0], labels, dense[:, 0]))
    # A text alone keeps its order; otherwise it is not compared with itself.
    alone = int(len(labels) == 1)
    pairs = len(labels) - 1 + alone
    correct, agree = (((order == each).sum(1) - 1 + alone) / pairs for each in (labelled, agreed))
    nats, divergence = squared_errors(variant, labels), squared_errors(variant, dense[:, 0])
    return torch.stack([each.double() for each in (nats, correct, agree, divergence, torch.ones_like(nats))], -1)


def _by_sample(figures: Tensor, mask: Tensor) -> Tensor:
    """Sums `[B, F]` of the figures `[N, F]` of the positions that are set in the mask `[B, P]`."""
    # Not by index_add, whose sums differ from run to run on a GPU.
    placed = figures.new_zeros(*mask.shape, figures.shape[-1])
    placed[mask] = figures
    return placed.sum(1)


def quality_of(total: Tensor) -> Quality:
    """Quality from the sums `[5]` of `compared_with_first` over some samples."""
    *sums, positions = total.tolist()
    nats, correct, agree, divergence = (each / positions for each in sums)
    # exp overflows float64 above 709; so large a figure only says that the model is destroyed.
    return Quality(math.exp(min(nats, 700)), correct, agree, max(divergence, 0.0))

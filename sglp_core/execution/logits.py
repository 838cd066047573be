"""Logits of several variants on the same batches, layer by layer, or whole where that is the only way."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sglp_core.execution.bypass import bypassed
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.variants import Walk
from sglp_core.execution.weight_changes import swapped
from sglp_core.progress import Phase, silent_phase
from sglp_core.tasks import Batch, logits_of


@torch.no_grad()
def logits_of_variants(
    model: LayeredModel, batches: Sequence[Batch], variants: Sequence[Variant], progress: Phase, every: int = 1
) -> Iterator[tuple[Tensor, Iterator[Tensor]]]:
    """For every batch its labels, and the logits of each variant in order, to be used before those of the next batch.

    The weights are gone through once for all batches and variants where the model runs layer by layer. Of a causal
    language model only every so many positions are computed, and labels are those that these predict, in their place.
    """
    if model.layerwise is None:
        yield from _whole(model, batches, variants, progress)
        return
    count = len(model.layers)
    progress.start(count + len(batches), "steps")
    walk = Walk(model, model.layerwise, batches)
    tracks = [walk.track(variant) for variant in variants]
    for index in range(count):
        walk.advance(index, tracks)
        progress.advance()
    with walk.outside():
        for number, entered in enumerate(walk.entered):
            labels, positions = entered.batch.labels, None
            if every > 1 and model.task == "causal_lm":
                labels, positions = _thinned(labels, every)
            yield labels, walk.logits(tracks, number, positions)
            progress.advance()


def _thinned(labels: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Labels `[B, P]` and the P positions of their logits.

    As in a whole text, the logits at one entry predict the label at the next, and the last predict nothing.
    """
    positions = torch.arange(every // 2, labels.shape[1] - 1, every, device=labels.device)
    predicted = torch.cat([labels[:, :1], labels[:, positions + 1]], 1)
    return predicted, torch.cat([positions, positions[-1:]])


def dense_logits(model: LayeredModel, batches: Sequence[Batch]) -> Iterator[Tensor]:
    """Logits of the model itself for every batch."""
    for _, logits in logits_of_variants(model, batches, [Variant()], silent_phase()):
        yield from logits


def _whole(
    model: LayeredModel, batches: Sequence[Batch], variants: Sequence[Variant], progress: Phase
) -> Iterator[tuple[Tensor, Iterator[Tensor]]]:
    progress.start(len(batches), "batches")
    with model.whole() as module:
        for batch in batches:
            moved = model.on_device(batch)

            def logits(moved: Batch = moved) -> Iterator[Tensor]:
                for variant in variants:
                    with bypassed(model.layers, variant.removed), swapped(module, variant.changes):
                        yield logits_of(module, moved)

            yield moved.labels, logits()
            progress.advance()

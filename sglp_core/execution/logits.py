"""Logits of several variants on the same batches, layer by layer, or whole where that is the only way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.variants import Piece, Walk
from sglp_core.execution.weight_changes import swapped
from sglp_core.progress import Phase, silent_phase
from sglp_core.tasks import Batch, logits_of


@dataclass(frozen=True)
class Trial:
    """How variants are only compared, for models that run layer by layer.

    Of a causal language model one position of `every` so many is looked at. With `keeps_length` the stream is made as
    long as that of the first variant, the dense model, after each cut (`Walk.restore_lengths`).
    """

    every: int = 1
    keeps_length: bool = False


WHOLE = Trial()


@torch.no_grad()
def logits_of_variants(
    model: LayeredModel,
    batches: Sequence[Batch],
    variants: Sequence[Variant],
    progress: Phase,
    trial: Trial = WHOLE,
    *,
    divides_samples: bool = True,
) -> Iterator[Iterator[Piece]]:
    """The logits of every batch, in pieces, each to be used before the next.

    A piece has a few samples, or with `divides_samples` a part of one, as in `Walk.exit`. The weights are gone through
    once for all batches and variants where the model runs layer by layer.
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
        if trial.keeps_length and index + 1 < count:
            walk.restore_lengths(index, tracks[0], tracks)
        progress.advance()
    with walk.outside():
        for number in range(len(batches)):
            yield walk.exit(tracks, number, trial.every, divides_samples=divides_samples)
            progress.advance()


def logits_of_one(model: LayeredModel, batches: Sequence[Batch], variant: Variant = Variant()) -> Iterator[Tensor]:
    """Logits of one variant for every batch."""
    for pieces in logits_of_variants(model, batches, [variant], silent_phase(), divides_samples=False):
        yield torch.cat([each for piece in pieces for each in piece.logits])


def _whole(
    model: LayeredModel, batches: Sequence[Batch], variants: Sequence[Variant], progress: Phase
) -> Iterator[Iterator[Piece]]:
    progress.start(len(batches), "batches")
    with model.whole() as module:
        for batch in batches:
            moved = model.on_device(batch)

            def logits(moved: Batch = moved) -> Iterator[Tensor]:
                for variant in variants:
                    with bypassed(model.layers, variant.removed), swapped(module, variant.changes):
                        yield logits_of(module, moved)

            yield iter([Piece(0, moved.labels, logits())])
            progress.advance()

"""The quality of the tracks of a walk at its exit, each on the batches that judge it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sglp_core.evaluation.quality import Quality, compared_with_first, quality_of
from sglp_core.execution.variants import Track, Walk


class ExitQuality:
    """Sums over the positions of each batch `[5]`, by track."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._sums: dict[tuple[Track, int], Tensor] = {}

    def add(self, number: int, dense: Track, tracks: Sequence[Track]) -> None:
        """Compare the tracks with the dense model on one batch; call inside `outside()` of the walk."""
        all_tracks = [dense, *tracks]
        pieces = self._walk.exit(all_tracks, number, divides_samples=True)
        sums = compared_with_first(pieces, self._walk.model.task).sum(1)
        self._sums |= {(track, number): each for track, each in zip(all_tracks, sums, strict=True)}

    def quality(self, track: Track, numbers: Iterable[int]) -> Quality:
        """The quality of a track on these batches together, all of which were added with it."""
        return quality_of(torch.stack([self._sums[track, number] for number in numbers]).sum(0))

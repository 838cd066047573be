"""The quality of the tracks of a walk at its exit, each on batches of its own."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sglp_core.evaluation.quality import Quality, compared, log_probabilities, quality_of
from sglp_core.execution.variants import Track, Walk


class ExitQuality:
    """Sums over the positions of each batch, by track."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._sums: dict[tuple[Track, int], Tensor] = {}
        self._positions: dict[int, int] = {}

    def add(self, number: int, dense: Track, tracks: Sequence[Track]) -> None:
        """Compare the tracks with the dense model on one batch; call inside `outside()` of the walk."""
        labels = self._walk.entered[number].batch.labels
        of_dense: Tensor | None = None
        all_tracks = [dense, *tracks]
        for track, logits in zip(all_tracks, self._walk.logits(all_tracks, number), strict=True):
            rows, targets = log_probabilities(logits, labels, self._walk.model.task)
            of_dense = rows if of_dense is None else of_dense
            self._sums[track, number] = compared(of_dense, rows, targets)
            self._positions[number] = len(targets)

    def quality(self, track: Track, numbers: Iterable[int]) -> Quality:
        """The quality of a track on these batches together, all of which were added with it."""
        numbers = list(numbers)
        total = torch.stack([self._sums[track, number] for number in numbers]).sum(0)
        return quality_of(total, sum(self._positions[number] for number in numbers))

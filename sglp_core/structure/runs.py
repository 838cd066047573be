"""Runs of neighbouring layers, half-open as in Python's `range`: from `start` to before `stop`."""

from collections.abc import Sequence
from typing import NamedTuple

# Indices of removed layers, rising.
Removed = tuple[int, ...]


class Run(NamedTuple):
    """The layers from `start` to before `stop`; also an index into costs of runs `[L + 1, L + 1]`."""

    start: int
    stop: int

    @property
    def layers(self) -> range:
        """The indices of its layers."""
        return range(self.start, self.stop)

    @property
    def first_and_last(self) -> tuple[int, int]:
        """Both included, as reports and `similarity.npz` write it."""
        return self.start, self.stop - 1


class Stage(Run):
    """Layers whose hidden states have one shape; most models are a single stage."""


class Segment(Run):
    """Layers that similarity groups together; a plan keeps at least one of them."""


def runs_of(removed: Sequence[int]) -> list[Run]:
    """The removed layers as runs of neighbours, in order."""
    runs: list[Run] = []
    for index in sorted(removed):
        if runs and runs[-1].stop == index:
            runs[-1] = Run(runs[-1].start, index + 1)
        else:
            runs.append(Run(index, index + 1))
    return runs

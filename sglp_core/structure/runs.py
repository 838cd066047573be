"""Runs of removed layers: those that lie next to each other."""

from collections.abc import Sequence


def runs_of(removed: Sequence[int]) -> list[tuple[int, int]]:
    """The removed layers as runs of neighbours, inclusive, in order."""
    runs: list[tuple[int, int]] = []
    for index in sorted(removed):
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return runs

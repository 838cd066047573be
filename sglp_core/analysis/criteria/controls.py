"""Controls: choices that look at no trace. A plan that is not better than they are has learned nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Control:
    """A row of `CONTROLS`: `scores(layers, seed)` returns `[L]`, higher is more important.

    In the comparison of a report it keeps the protected layers only where `protects`.
    """

    scores: Callable[[int, int], np.ndarray]
    protects: bool = True


def last_layers(layers: int, _seed: int) -> np.ndarray:
    """The later a layer, the less important."""
    return np.arange(layers, 0, -1).astype(np.float64)


def shuffled(layers: int, seed: int) -> np.ndarray:
    """An order drawn at random."""
    return np.random.default_rng(seed).permutation(layers).astype(np.float64)


CONTROLS: dict[str, Control] = {
    # The very last layers, the protected one included.
    "last_layers": Control(last_layers, protects=False),
    "random": Control(shuffled),
}

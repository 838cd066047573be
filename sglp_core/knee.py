"""Find the knee of a curve: the point furthest below the straight line between its ends.

This is Kneedle (Satopää, Albrecht, Irwin & Raghavan 2011) without smoothing. Both axes are scaled to 0–1, so units do
not matter; then the vertical distance to the line is largest where the distance to the line is.
"""

from collections.abc import Sequence

import numpy as np


def knee(x: Sequence[float], y: Sequence[float]) -> int | None:
    """The index of the knee of a curve with rising `x`, or None without a knee.

    There is none with fewer than three points, where `y` does not rise from the first to the last one, or where no
    point lies below the line between them.
    """
    if len(x) < 3 or not y[-1] > y[0] or not x[-1] > x[0]:
        return None
    across = (np.asarray(x) - x[0]) / (x[-1] - x[0])
    up = (np.asarray(y) - y[0]) / (y[-1] - y[0])
    below = across - up
    best = int(np.argmax(below))
    return best if below[best] > 1e-12 else None

"""Where a curve turns from cheap to dear: the point furthest below the chord between its ends (Kneedle).

Satopää, Albrecht, Irwin & Raghavan 2011, without smoothing: both axes are scaled to 0–1, so no unit matters, and the
vertical distance to the diagonal is largest where the distance to the chord is.
"""

from collections.abc import Sequence

import numpy as np


def knee(x: Sequence[float], y: Sequence[float]) -> int | None:
    """The index of the knee of a rising curve with rising `x`; None where no point lies below the chord.

    Fewer than three points, or a curve that does not rise from its first to its last one, have no knee.
    """
    if len(x) < 3 or not y[-1] > y[0] or not x[-1] > x[0]:
        return None
    across = (np.asarray(x) - x[0]) / (x[-1] - x[0])
    up = (np.asarray(y) - y[0]) / (y[-1] - y[0])
    below = across - up
    best = int(np.argmax(below))
    return best if below[best] > 1e-12 else None

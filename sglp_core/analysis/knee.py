"""Where a curve bends most: the point furthest below the chord between its ends (Kneedle).

Satopää, Albrecht, Irwin & Raghavan 2011, without smoothing: both axes are scaled to 0–1, so no unit matters, and the
vertical distance to the chord is largest where the perpendicular distance is.
"""

from collections.abc import Sequence

import numpy as np


def knee(x: Sequence[float], y: Sequence[float]) -> int | None:
    """The index of the knee of a curve with rising `x`; `y` may rise or fall from its first to its last point.

    None where no point lies below the chord, for fewer than three points, and where the ends are equally high.
    """
    if len(x) < 3 or not abs(y[-1] - y[0]) > 0 or not x[-1] > x[0]:
        return None
    across = (np.asarray(x) - x[0]) / (x[-1] - x[0])
    change = (np.asarray(y) - y[0]) / (y[-1] - y[0])
    below = across - change if y[-1] > y[0] else change - across
    best = int(np.argmax(below))
    return best if below[best] > 1e-12 else None

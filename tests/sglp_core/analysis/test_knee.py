"""Where a curve turns, on curves whose answer is known."""

import numpy as np
import pytest

from sglp_core.analysis.knee import knee


def test_two_straight_pieces_turn_where_they_meet() -> None:
    assert knee([0, 1, 2, 3, 4], [0, 0.1, 0.2, 0.3, 5]) == 3
    assert knee([0, 1, 2, 3, 4], [7, 7.1, 10, 13, 16]) == 1


def test_a_parabola_turns_in_its_middle_whatever_the_units() -> None:
    # x − x² is largest at 1/2.
    x = np.linspace(0, 1, 11)
    assert knee(x, x**2) == 5
    assert knee(300 + 7 * x, 1000 * x**2 - 40) == 5


def test_a_falling_curve_turns_where_its_mirror_image_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = np.sort(rng.random(7)), np.cumsum(np.sort(rng.random(7)))
        mirrored = knee(1 - x[::-1], y[::-1])
        assert knee(x, y) == (None if mirrored is None else 6 - mirrored)


@pytest.mark.parametrize("n", range(3, 9))
def test_it_is_the_point_furthest_from_the_chord(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(50):
        x = np.sort(rng.random(n))
        y = np.cumsum(np.sort(rng.random(n)))
        scaled = np.stack([(x - x[0]) / (x[-1] - x[0]), (y - y[0]) / (y[-1] - y[0])], 1)
        # The perpendicular distance to the diagonal, by the cross product; the curve is not always below it.
        distance = (scaled[:, 0] - scaled[:, 1]) / np.sqrt(2)
        found = knee(x, y)
        assert found == (int(distance.argmax()) if distance.max() > 1e-12 else None)


@pytest.mark.parametrize("y", [[0, 1], [0, 2, 3], [0, 1, 2], [3, 2, 1], [1, 1, 1]])
def test_a_line_a_bulge_and_a_falling_curve_have_none(y: list[float]) -> None:
    assert knee(list(range(len(y))), y) is None

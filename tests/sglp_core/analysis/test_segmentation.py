from itertools import combinations, pairwise

import numpy as np
import pytest

from sglp_core.analysis.segmentation import segment
from sglp_core.structure.runs import Segment, Stage


def loss_of(samples: np.ndarray, segments: tuple[Segment, ...]) -> float:
    return sum(float(((samples[a:b] - samples[a:b].mean(0)) ** 2).sum()) for a, b in segments)


def all_partitions(n: int, k: int) -> list[tuple[Segment, ...]]:
    result = []
    for cuts in combinations(range(1, n), k - 1):
        edges = (0, *cuts, n)
        result.append(tuple(Segment(a, b) for a, b in pairwise(edges)))
    return result


@pytest.mark.parametrize("n", range(2, 11))
def test_every_number_of_segments_is_as_good_as_brute_force(n: int) -> None:
    matrix = np.random.default_rng(n).random((n, n))
    for k in range(1, n + 1):
        found = segment(matrix, k)
        best = min(loss_of(matrix, p) for p in all_partitions(n, k))
        assert len(found.segments) == k
        assert loss_of(matrix, found.segments) == pytest.approx(best, abs=1e-9)
        assert found.loss_curve[k - 1] == pytest.approx(best, abs=1e-9)


STAGES = (Stage(0, 3), Stage(3, 4), Stage(4, 9))


def test_no_segment_crosses_a_stage_and_every_number_is_as_good_as_brute_force() -> None:
    matrix = np.random.default_rng(0).random((9, 9))
    for k in range(1, 10):
        found = segment(matrix, k, stages=STAGES)
        inside = [p for p in all_partitions(9, k) if all(any(a <= i and j <= b for a, b in STAGES) for i, j in p)]
        if not inside:
            assert (found.segments, found.loss_curve[k - 1]) == (STAGES, None)
            continue
        best = min(loss_of(matrix, p) for p in inside)
        assert found.segments in inside
        assert loss_of(matrix, found.segments) == pytest.approx(best, abs=1e-9)
        assert found.loss_curve[k - 1] == pytest.approx(best, abs=1e-9)


BLOCKS = (Segment(0, 4), Segment(4, 7), Segment(7, 12))


def test_auto_cuts_further_inside_the_stages() -> None:
    matrix = np.full((12, 12), 0.1)
    for block in BLOCKS:
        matrix[block.start : block.stop, block.start : block.stop] = 1.0
    assert segment(matrix, stages=(Stage(0, 4), Stage(4, 12))).segments == BLOCKS


@pytest.mark.parametrize("matrix", [np.ones((9, 9)), np.eye(9)], ids=["layers all alike", "layers all different"])
def test_where_no_number_of_segments_stands_out_the_layers_are_one_segment(matrix: np.ndarray) -> None:
    # The loss curve is flat for layers that are all alike, and a straight line for layers that are all different.
    assert segment(matrix).segments == (Segment(0, 9),)


def test_auto_finds_the_blocks_of_a_block_matrix() -> None:
    matrix = np.full((12, 12), 0.1)
    for block in BLOCKS:
        matrix[block.start : block.stop, block.start : block.stop] = 1.0
    assert segment(matrix).segments == BLOCKS

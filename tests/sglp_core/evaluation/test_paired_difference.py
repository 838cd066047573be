"""Intervals of paired differences against tables, closed forms and what they promise of repeated draws."""

import math

import numpy as np
import pytest
import torch

from sglp_core.evaluation.paired_difference import paired_difference, student_t

# Two-sided 5 % points, from printed tables of Student's distribution.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 7: 2.365, 15: 2.131, 31: 2.040, 120: 1.980}


def figures(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64))


@pytest.mark.parametrize(("degrees", "expected"), TABLE.items())
def test_the_quantiles_are_those_of_the_tables(degrees: int, expected: float) -> None:
    assert student_t(degrees) == pytest.approx(expected, abs=6e-4)


def test_two_degrees_of_freedom_have_a_closed_form_and_a_million_are_normal() -> None:
    share = 0.95
    assert student_t(2) == pytest.approx(share * math.sqrt(2 / (1 - share**2)), rel=1e-9)
    assert student_t(10**6) == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize("count", [4, 8, 32])
def test_samples_of_one_length_have_the_t_interval_of_the_paired_differences(count: int) -> None:
    generator = np.random.default_rng(count)
    before = generator.normal(700, 90, count)
    after = before - generator.normal(20, 9, count)
    found = paired_difference(figures(before), figures(after), figures(np.full(count, 255)))
    differences = (before - after) / 255
    margin = TABLE[count - 1] * differences.std(ddof=1) / math.sqrt(count)
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(differences.mean() - margin, rel=1e-3)
    assert found.high == pytest.approx(differences.mean() + margin, rel=1e-3)


def test_samples_of_several_lengths_vary_as_the_jackknife_says() -> None:
    generator = np.random.default_rng(1)
    positions = generator.integers(100, 300, 400)
    differences = positions * generator.normal(0.1, 0.2, 400)
    found = paired_difference(figures(differences), figures(np.zeros(400)), figures(positions))
    assert found.mean == pytest.approx(differences.sum() / positions.sum())
    # The ratio of the sums without each of the samples.
    without = (differences.sum() - differences) / (positions.sum() - positions)
    deviation = math.sqrt(399 / 400 * ((without - without.mean()) ** 2).sum())
    assert found.low is not None
    assert found.mean - found.low == pytest.approx(1.966 * deviation, rel=5e-3)


def test_pairs_that_differ_little_are_certain_however_different_the_samples_are() -> None:
    before = np.array([100.0, 900.0, 5000.0, 20.0])
    found = paired_difference(figures(before), figures(before - 1), figures(np.ones(4)))
    assert (found.mean, found.low, found.high) == (1, 1, 1)


def test_opposite_differences_may_be_chance() -> None:
    found = paired_difference(figures([3.0, 0.0, 2.0, 0.0]), figures([0.0, 1.0, 0.0, 2.0]), figures(np.ones(4)))
    # Differences 3, -1, 2, -2: a mean of 0.5 and a variance of 17/3.
    margin = 3.182446 * math.sqrt(17 / 3 / 4)
    assert (found.mean, found.low, found.high) == (0.5, pytest.approx(0.5 - margin), pytest.approx(0.5 + margin))
    assert found.low is not None
    assert found.low < 0


def test_one_sample_has_no_interval() -> None:
    found = paired_difference(figures([3.0]), figures([1.0]), figures([4.0]))
    assert (found.mean, found.low, found.high) == (0.5, None, None)


@pytest.mark.parametrize("count", [4, 16])
def test_95_of_100_intervals_hold_the_true_difference_for_few_samples_too(count: int) -> None:
    generator, ones = np.random.default_rng(count), figures(np.ones(count))
    held = 0
    for _ in range(400):
        found = paired_difference(figures(generator.normal(0.3, 1, count)), 0 * ones, ones)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.3 <= found.high
    # Three standard deviations of 400 draws.
    assert held / 400 == pytest.approx(0.95, abs=0.033)

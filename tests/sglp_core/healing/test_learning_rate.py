"""The learning rate rises linearly to its peak and falls linearly to just above 0, also for a run that is resumed."""

import pytest
import torch

from sglp_core.healing.learning_rate import LearningRate

HIGHEST = 3e-4


def rates(steps: int, done: int = 0) -> list[float]:
    """The rates of the steps that are left."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=HIGHEST)
    schedule = LearningRate(optimizer, HIGHEST, steps, done)
    found = []
    for _ in range(done, steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.advance()
    return found


def expected(step: int, steps: int) -> float:
    """Of the step with this index from 0."""
    warm_up = max(1, round(0.1 * steps))
    return HIGHEST * ((step + 1) / warm_up if step < warm_up else (steps - step) / (steps - warm_up))


@pytest.mark.parametrize("steps", [1, 2, 10, 24, 200])
def test_the_rate_of_each_step_is_the_closed_form(steps: int) -> None:
    assert rates(steps) == pytest.approx([expected(step, steps) for step in range(steps)], rel=1e-12)


@pytest.mark.parametrize("done", range(1, 24))
def test_a_resumed_run_goes_on_with_the_same_rates(done: int) -> None:
    assert rates(24, done) == rates(24)[done:]

"""A healing whose workers are killed goes on on others, to the bit; `benchmarks.moved_healing` does it for hours."""

import pytest

from benchmarks.moved_healing import run


@pytest.mark.slow
def test_a_healing_that_is_killed_and_moved_ends_with_the_same_weights(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    told: list[str] = []
    outcome = run(tmp_path_factory.mktemp("moved"), 160, 2, 1, 32, told.append)
    assert outcome.files > 0
    assert (outcome.differing, outcome.same_curve, outcome.left_over) == ([], True, []), told
    assert {kill.worker for kill in outcome.kills} == {"first", "second"}
    assert outcome.resumed_from_step >= outcome.steps // 8
    assert outcome.stored_states > 0

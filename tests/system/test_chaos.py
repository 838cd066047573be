"""Half a minute of random faults, and every promise kept; `make chaos` does ten minutes."""

import pytest

from benchmarks.chaos.run import run

SECONDS = 30
SEED = 20260


def test_no_promise_is_broken_by_random_faults(tmp_path_factory: pytest.TempPathFactory) -> None:
    said: list[str] = []
    outcome = run(tmp_path_factory.mktemp("chaos"), SECONDS, SEED, said.append)
    assert outcome.faults.total() >= 3, said
    assert outcome.ends.total() >= 3
    assert {name: found for name, found in outcome.violations.items() if found} == {}, said

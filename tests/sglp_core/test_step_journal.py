"""Finished steps are not done again, whoever kept their results."""

import math
from pathlib import Path

from sglp_core.result_cache import Cache
from sglp_core.step_journal import StepJournal

KEY = {"run": 1}


def test_a_step_is_done_once_for_its_name_inputs_and_key(tmp_path: Path) -> None:
    kept: list[Path] = []
    journal = StepJournal(Cache(tmp_path / "one", on_keep=kept.append), KEY)
    figures = [0.1 + 0.2, -0.0, 1e-320, math.inf]
    assert journal.step("harm", [[1, 2]], lambda: figures) == figures
    assert journal.step("harm", [[1, 2]], lambda: 1) == figures
    assert [journal.step("harm", [[1, 3]], lambda: 2), journal.step("judged", [[1, 2]], lambda: 3)] == [2, 3]
    assert kept == []
    journal.write()
    journal.write()
    (file,) = kept
    here, elsewhere = Cache(tmp_path / "one"), Cache(tmp_path / "two", received=file.parent)
    for cache in (here, elsewhere):
        assert StepJournal(cache, KEY).step("harm", [(1, 2)], lambda: 4) == figures
        assert StepJournal(cache, {"run": 2}).step("harm", [(1, 2)], lambda: 4) == 4


def test_without_a_cache_nothing_is_kept() -> None:
    journal = StepJournal()
    assert [journal.step("harm", [], lambda: 0), journal.step("harm", [], lambda: 1)] == [0, 1]
    journal.write()

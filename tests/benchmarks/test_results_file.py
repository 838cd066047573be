"""Rows of a benchmark outlive the process that measured them, and processes do not spoil each other's rows."""

import multiprocessing
from pathlib import Path

from benchmarks.results_file import ResultsFile

ROWS = 50


def test_a_row_is_found_again_by_its_settings_alone(tmp_path: Path) -> None:
    path = tmp_path / "new/rows.jsonl"
    assert ResultsFile(path).find({"row": "random"}) is None
    ResultsFile(path).add({"row": "random", "layers": (6, 10)}, {"curve": [[1, 0.5]]})
    assert ResultsFile(path).find({"layers": (6, 10), "row": "random"}) == {"curve": [[1, 0.5]]}
    assert ResultsFile(path).find({"row": "random", "layers": (6,)}) is None


def test_a_row_that_was_measured_again_replaces_the_older_one(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.jsonl")
    results.add({"row": 1}, {"kl": 2})
    results.add({"row": 1}, {"kl": 3})
    assert results.find({"row": 1}) == {"kl": 3}


def test_a_line_that_was_cut_off_is_no_row_and_spoils_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ResultsFile(path).add({"row": 1}, {"kl": 1})
    with path.open("a") as file:
        file.write('{"settings": {"row": 2}, "resu')
    assert [settings for settings, _ in ResultsFile(path).rows()] == [{"row": 1}]
    ResultsFile(path).add({"row": 3}, {"kl": 3})
    assert [settings for settings, _ in ResultsFile(path).rows()] == [{"row": 1}, {"row": 3}]


def test_processes_that_add_at_the_same_time_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_rows, args=(path, name)) for name in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    rows = [(settings["name"], settings["row"]) for settings, _ in ResultsFile(path).rows()]
    assert sorted(rows) == [(name, row) for name in ("a", "b") for row in range(ROWS)]


def _add_rows(path: Path, name: str) -> None:
    for row in range(ROWS):
        # Longer than what a pipe or a disk writes at once.
        ResultsFile(path).add({"name": name, "row": row}, {"text": name * 20_000})

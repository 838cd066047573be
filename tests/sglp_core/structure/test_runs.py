"""Runs of neighbouring layers."""

from sglp_core.structure.runs import Run, Segment, runs_of


def test_removed_layers_that_are_neighbours_are_one_run() -> None:
    assert runs_of((7, 2, 3, 4, 9)) == [Run(2, 5), Run(7, 8), Run(9, 10)]
    assert runs_of(()) == []


def test_a_run_is_half_open_and_reports_write_its_last_layer() -> None:
    assert list(Segment(3, 6).layers) == [3, 4, 5]
    assert Segment(3, 6).first_and_last == (3, 5)

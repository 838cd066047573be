"""The options that say what to remove, as a job's `target`."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from sglp_client.cli.removal import Removal, layer_numbers


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, None),
        ({"remove": 0.25}, {"kind": "parameters", "ratio": 0.25}),
        ({"remove": 0.25, "of": "layers"}, {"kind": "layers", "ratio": 0.25}),
        ({"remove_count": 8}, {"kind": "layers", "count": 8}),
        ({"leave": 24}, {"kind": "layers", "left": 24}),
        ({"remove_layers": "3,4,-2"}, {"kind": "plan", "remove": [3, 4, -2]}),
        ({"keep_layers": "-1, 0"}, {"kind": "plan", "keep": [-1, 0]}),
        ({"sweep": [0.1, 0.2], "of": "flops"}, {"kind": "sweep", "of": "flops", "ratios": [0.1, 0.2]}),
        ({"max_drop": 0.1}, {"kind": "quality", "metric": "perplexity", "max_drop": 0.1}),
        ({"max_drop": 0.1, "metric": "accuracy"}, {"kind": "quality", "metric": "accuracy", "max_drop": 0.1}),
    ],
    ids=str,
)
def test_each_way_is_a_target_of_the_api(options: dict[str, Any], target: dict[str, Any] | None) -> None:
    assert Removal(**options).target() == target


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"remove": 0.25, "remove_count": 2}, "give one of --remove and --remove-count"),
        ({"leave": 2, "keep_layers": "1", "max_drop": 0.1}, "give one of --leave and --keep-layers and --max-drop"),
        ({"remove": 0.0, "max_drop": 0.0}, "give one of --remove and --max-drop"),
        ({"metric": "accuracy"}, "goes with --max-drop"),
        ({"remove_count": 2, "of": "layers"}, "goes with a fraction to remove"),
        ({"sweep": [0.2], "max_drop": 0.1}, "give one of --max-drop and --sweep"),
        ({"remove": 2, "of": "layers"}, "to remove exactly 2 layers: --remove-count 2"),
        ({"remove_layers": "1;2"}, "'1;2' is no list of numbers of layers such as 0,1,-1"),
        ({"keep_layers": ""}, "is no list"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        Removal(**options).target()


def test_numbers_are_separated_by_commas() -> None:
    assert layer_numbers("-1,0, 12", "--protect") == [-1, 0, 12]


@pytest.mark.parametrize("plan", ['{"kind": "plan", "layers": 6, "remove": [2, 3]}', '{"kind": "plan", "keep": [-1]}'])
def test_a_plan_is_read_as_it_is(tmp_path: Path, plan: str) -> None:
    (tmp_path / "plan.json").write_text(plan)
    assert Removal(plan=tmp_path / "plan.json").target() == json.loads(plan)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1, 2]",
        '{"kind": "layers", "count": 2}',
        '{"kind": "plan"}',
        '{"kind": "plan", "remove": 3}',
        '{"kind": "plan", "remove": [true]}',
        '{"kind": "plan", "remove": ["3"]}',
        '{"kind": "plan", "remove": [3], "keep": [4]}',
        '{"kind": "plan", "remove": [3], "layers": "6"}',
        '{"kind": "plan", "remove": [3], "ratio": 0.5}',
        '{"plan": {"removed_layers": [3]}}',
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(typer.BadParameter, match=r"is no plan\.json of a job"):
        Removal(plan=tmp_path / "plan.json").target()


def test_a_plan_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="No such file"):
        Removal(plan=tmp_path / "none.json").target()

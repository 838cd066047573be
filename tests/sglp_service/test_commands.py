"""The commands that the package `sglp` adds to the command `sglp`."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from sglp_client.cli.service_commands import GROUP, SUMMARIES

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
COMMANDS = PROJECT["entry-points"][GROUP]


def test_every_command_that_the_client_lists_is_added() -> None:
    assert COMMANDS.keys() == SUMMARIES.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_function_of_its_name(name: str) -> None:
    assert EntryPoint(name, COMMANDS[name], GROUP).load().__name__ == name

"""The commands that need the package `sglp`, which registers them as entry points in the group `sglp.commands`.

An entry point is a function as `typer.Typer.command` takes it. It is imported when its command is called, so that
`sglp --help` is fast, and a package that cannot be imported leaves the other commands alone.
"""

from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperCommand

from sglp_client.errors import UserError

GROUP = "sglp.commands"
PANEL = "Commands of the package sglp"
INSTALL = "in a checkout of SGLP, run: pip install ./client '.[all]'"
SUMMARIES = {
    "up": "Run the whole service on this machine until Ctrl-C.",
    "demo": "Compress a real model through the service, from start to end, in the current folder.",
    "compress": "Remove whole layers from a model on this machine, without the service.",
    "sweep": "Compare several ratios for a model on this machine, without the service.",
    "estimate": "Estimate what a job would take, on this machine and without the service.",
}


class ServiceCommand(TyperCommand):
    """Stands for a command of the package `sglp` in the help, and becomes that command when it is called."""

    def __init__(self, name: str) -> None:
        super().__init__(name, help=SUMMARIES[name], rich_help_panel=PANEL)

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """The context of the command itself. Raises `UserError` where it is not installed."""
        return _load(str(self.name)).make_context(*arguments, **settings)


def service_commands() -> list[ServiceCommand]:
    """All of them, installed or not."""
    return [ServiceCommand(name) for name in SUMMARIES]


def _load(name: str) -> TyperCommand:
    installed = [*entry_points(group=GROUP, name=name)]
    if not installed:
        raise UserError(f"`sglp {name}` needs the package sglp, which is not installed; {INSTALL}")
    try:
        function = installed[0].load()
    except Exception as error:
        raise UserError(f"`sglp {name}` cannot be imported ({type(error).__name__}: {error}); {INSTALL}") from error
    app = typer.Typer(add_completion=False)
    app.command(name)(function)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    return command

"""The `sglp` command."""

import os
import sys

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Makes trained neural networks smaller by removing whole layers."""


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Compress a model here and now, without the service; `sglp compress --help` lists the options.",
)
def compress(context: typer.Context) -> None:
    # The method is another program to the client, which must run where no torch is installed.
    os.execv(sys.executable, [sys.executable, "-m", "sglp_core", "compress", *context.args])

"""`sglp up`: the whole service on this machine."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sglp_service.embedded_stack import EmbeddedStack

CHECK_SECONDS = 0.5


def up(
    state: Annotated[
        Path, typer.Option(help="Folder for everything the service keeps.", envvar="SGLP_STATE_DIR", file_okay=False)
    ] = Path(".sglp"),
    models: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that file:// models may come from; repeatable.", exists=True, file_okay=False),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port to listen on, on the loopback interface only.", envvar="SGLP_PORT")
    ] = 8000,
    require_keys: Annotated[
        bool, typer.Option(help="Ask every request for an API key.", envvar="SGLP_REQUIRE_KEYS")
    ] = False,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    console = Console()
    with EmbeddedStack(state, model_roots=models or [], port=port, require_keys=require_keys) as stack:
        console.print(f"SGLP is ready at {stack.url}", highlight=False)
        if stack.ignored:
            console.print(f"These variables have no effect on `sglp up`: {', '.join(stack.ignored)}", highlight=False)
        if not require_keys:
            console.print("[bold red]There is no authentication: every program on this machine can use it.[/]")
        while True:
            stack.check()
            time.sleep(CHECK_SECONDS)

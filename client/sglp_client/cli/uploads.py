"""`sglp uploads`: the files that were sent to the service, which count against the quota."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from sglp_client.cli.options import DEFAULT_URL, Url
from sglp_client.sdk import SGLP

app = typer.Typer(no_args_is_help=True, help="List and delete uploads.")
console = Console()


@app.command("list")
def list_uploads(url: Url = DEFAULT_URL) -> None:
    """List the uploads, newest first."""
    table = Table(Column("upload", no_wrap=True, min_width=33), "kind", "name", "status", Column("MB", justify="right"))
    with SGLP(url) as service:
        for upload in service.uploads():
            size_bytes = sum(file["size_bytes"] for file in upload["files"])
            table.add_row(upload["id"], upload["kind"], upload["name"], upload["status"], f"{size_bytes / 1e6:,.1f}")
    console.print(table, markup=False)


@app.command()
def delete(
    upload_id: Annotated[str, typer.Argument(metavar="UPLOAD", help="upload_…, as `sglp uploads list` shows it.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Delete an upload that no job is reading."""
    with SGLP(url) as service:
        service.delete_upload(upload_id.removeprefix("upload://"))
        console.print("deleted")

"""`sglp keys`: API keys of a service, for its administrators."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from sglp_client.cli.options import DEFAULT_URL, Url
from sglp_client.sdk import SGLP

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys; needs a key with the scope admin.")
console = Console()

DAY_SECONDS = 86400


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="The tenant that the key belongs to.")],
    name: Annotated[str, typer.Option(help="What the key is for, such as 'nightly pipeline'.")],
    scope: Annotated[list[str], typer.Option(help="jobs:read, jobs:write or admin; repeatable.")],
    expires_days: Annotated[
        int | None, typer.Option(min=1, help="Days until the key expires; by default it does not.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Create a key and print it; it is never shown again."""
    with SGLP(url) as service:
        seconds = None if expires_days is None else expires_days * DAY_SECONDS
        print(service.create_key(tenant, name, scope, expires_in_seconds=seconds)["key"])


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only the keys of this tenant.")] = None, url: Url = DEFAULT_URL
) -> None:
    """List the keys without their secrets."""
    table = Table(Column("key", no_wrap=True, min_width=30), "tenant", "name", "scopes", "last used (UTC)", "expires")
    with SGLP(url) as service:
        for key in service.keys(tenant=tenant):
            expires = "revoked" if key["revoked_at"] else (key["expires_at"] or "")[:10]
            used = (key["last_used_at"] or "")[:16].replace("T", " ")
            table.add_row(key["id"], key["tenant"], key["name"], " ".join(key["scopes"]), used, expires)
    console.print(table, markup=False)


@app.command()
def revoke(key_id: str, url: Url = DEFAULT_URL) -> None:
    """Revoke a key for good: from now on, requests with it are refused."""
    with SGLP(url) as service:
        service.revoke_key(key_id)
        console.print("revoked")

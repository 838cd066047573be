"""`sglp tenants`: the tenants of a service and their quotas, for its administrators."""

from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from sglp_client.cli.options import DEFAULT_URL, Url
from sglp_client.resources import Tenant
from sglp_client.sdk import SGLP

app = typer.Typer(
    no_args_is_help=True, help="Create, list, limit and delete tenants; needs a key with the scope admin."
)
console = Console()

QueuedJobs = Annotated[
    int | None, typer.Option(min=0, help="Most jobs that may wait; without it the service's own limit.")
]
RunningJobs = Annotated[int | None, typer.Option(min=0, help="Most jobs that may run at a time; without it no limit.")]
StoredBytes = Annotated[
    int | None, typer.Option(min=0, help="Most bytes that its files may have; without it no limit.")
]
Weight = Annotated[
    float, typer.Option(min=0.01, max=100, help="Its share of the workers where several tenants wait for them.")
]


@app.command()
def create(
    name: str,
    queued_jobs: QueuedJobs = None,
    running_jobs: RunningJobs = None,
    stored_bytes: StoredBytes = None,
    weight: Weight = 1,
    url: Url = DEFAULT_URL,
) -> None:
    """Create a tenant."""
    with SGLP(url) as service:
        service.create_tenant(name, **_given(queued_jobs, running_jobs, stored_bytes, weight))
        console.print("created")


@app.command("list")
def list_tenants(url: Url = DEFAULT_URL) -> None:
    """List the tenants with their quotas."""
    table = Table("tenant", "created (UTC)", "queued", "running", "stored", "weight", "state")
    with SGLP(url) as service:
        for tenant in service.tenants():
            quotas = tenant["quotas"]
            stored = quotas["stored_bytes"]
            table.add_row(
                tenant["name"],
                tenant["created_at"][:16].replace("T", " "),
                _limit(quotas["queued_jobs"]),
                _limit(quotas["running_jobs"]),
                "no limit" if stored is None else decimal(stored),
                f"{quotas['weight']:g}",
                "being deleted" if tenant["deletion"] else "",
            )
    console.print(table, markup=False)


@app.command()
def limit(
    name: str,
    queued_jobs: QueuedJobs = None,
    running_jobs: RunningJobs = None,
    stored_bytes: StoredBytes = None,
    weight: Weight = 1,
    url: Url = DEFAULT_URL,
) -> None:
    """Replace all quotas of a tenant: one that is left out is no limit any more. Jobs that it has stay."""
    with SGLP(url) as service:
        service.set_quotas(name, **_given(queued_jobs, running_jobs, stored_bytes, weight))
        console.print("limited")


@app.command()
def delete(
    name: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a tenant with its jobs, files, uploads and keys; called again, say what is left."""
    if not yes:
        typer.confirm(f"Delete {name} with all its jobs, files, uploads and keys?", abort=True)
    with SGLP(url) as service:
        console.print(_left(service.delete_tenant(name)), soft_wrap=True)


def _given(
    queued_jobs: int | None, running_jobs: int | None, stored_bytes: int | None, weight: float
) -> dict[str, float]:
    quotas = {
        "queued_jobs": queued_jobs,
        "running_jobs": running_jobs,
        "stored_bytes": stored_bytes,
        "weight": weight,
    }
    return {name: value for name, value in quotas.items() if value is not None}


def _left(tenant: Tenant) -> str:
    deletion = tenant["deletion"]
    if deletion is None:
        return "deleted"
    left = {
        "unfinished jobs": deletion["unfinished_jobs"],
        "ended jobs": deletion["ended_jobs"],
        "deleted jobs": deletion["deleted_jobs"],
        "uploads": deletion["uploads"],
    }
    counts = ", ".join(f"{count} {what}" for what, count in left.items())
    return f"{tenant['name']} is being deleted by the scheduler; left: {counts}"


def _limit(quota: int | None) -> str:
    return "no limit" if quota is None else f"{quota:,}"

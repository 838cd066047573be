"""`sglp webhooks`: who is told of the ends of jobs, and what was delivered."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from sglp_client.cli.errors import HERE, Url, told_plainly
from sglp_client.sdk import SGLP

app = typer.Typer(no_args_is_help=True, help="Have the ends of jobs told to an address, and see what was delivered.")
console = Console()

Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="whe_…, as `sglp webhooks list` shows it.")]


@app.command()
def create(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The https:// address that is to be told.")],
    event: Annotated[
        list[str] | None, typer.Option(help="job.succeeded, job.failed or job.cancelled; repeatable, by default all.")
    ] = None,
    url: Url = HERE,
) -> None:
    """Add an endpoint and print its id and its secret; nothing can show the secret again."""
    with told_plainly(), SGLP(url) as service:
        endpoint = service.create_webhook(address, event)
        print(endpoint["id"], endpoint["secret"])


@app.command("list")
def list_webhooks(url: Url = HERE) -> None:
    """List the endpoints without their secrets."""
    table = Table(Column("endpoint", no_wrap=True, min_width=30), "address", "events", "state")
    with told_plainly(), SGLP(url) as service:
        for endpoint in service.webhooks():
            state = "on" if endpoint["enabled"] else f"off: {endpoint['disabled_reason']}"
            events = " ".join(name.removeprefix("job.") for name in endpoint["event_types"])
            table.add_row(endpoint["id"], endpoint["url"], events, state)
    console.print(table, markup=False)


@app.command()
def delete(endpoint_id: Endpoint, url: Url = HERE) -> None:
    """Delete an endpoint; what it was still to be told is not sent."""
    with told_plainly(), SGLP(url) as service:
        service.delete_webhook(endpoint_id)
        console.print("deleted")


@app.command()
def rotate(endpoint_id: Endpoint, url: Url = HERE) -> None:
    """Print a new secret for an endpoint; for 24 hours deliveries are signed with the old one, too."""
    with told_plainly(), SGLP(url) as service:
        print(service.rotate_webhook(endpoint_id)["secret"])


@app.command()
def deliveries(
    endpoint_id: Endpoint, limit: Annotated[int, typer.Option(min=1, max=100)] = 20, url: Url = HERE
) -> None:
    """List the newest deliveries of an endpoint, with what came of them."""
    table = Table(
        Column("delivery", no_wrap=True, min_width=30),
        Column("job", no_wrap=True, min_width=30),
        "event",
        "tries",
        "outcome (UTC)",
    )
    with told_plainly(), SGLP(url) as service:
        for each in service.webhook_deliveries(endpoint_id, limit=limit):
            event = each["event_type"].removeprefix("job.")
            table.add_row(each["id"], each["job_id"], event, str(each["attempts"]), _outcome(each))
    console.print(table, markup=False)


@app.command()
def redeliver(
    delivery_id: Annotated[
        str, typer.Argument(metavar="DELIVERY", help="msg_…, as `sglp webhooks deliveries` shows it.")
    ],
    url: Url = HERE,
) -> None:
    """Send a delivery again, under the same webhook-id."""
    with told_plainly(), SGLP(url) as service:
        service.redeliver_webhook(delivery_id)
        console.print("will be sent again")


def _outcome(delivery: dict[str, Any]) -> str:
    if delivery["delivered_at"]:
        return f"delivered {_minute(delivery['delivered_at'])}"
    error = delivery["last_error"] or "not tried yet"
    return f"{error}; next try {_minute(delivery['next_at'])}" if delivery["next_at"] else f"{error}; given up"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")

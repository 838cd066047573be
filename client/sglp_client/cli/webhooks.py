"""`sglp webhooks`: the addresses that are notified when jobs end, and the deliveries to them."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from sglp_client.cli.options import DEFAULT_URL, Url
from sglp_client.resources import WebhookDelivery
from sglp_client.sdk import SGLP

app = typer.Typer(no_args_is_help=True, help="Have an address notified when jobs end, and list the deliveries.")
console = Console()

Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="whe_…, as `sglp webhooks list` shows it.")]


@app.command()
def create(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The https:// address to notify.")],
    event: Annotated[
        list[str] | None, typer.Option(help="job.succeeded, job.failed or job.cancelled; repeatable, by default all.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Add an endpoint and print its id and its secret; the secret is never shown again."""
    with SGLP(url) as service:
        endpoint = service.create_webhook(address, event)
        print(endpoint["id"], endpoint["secret"])


@app.command("list")
def list_webhooks(url: Url = DEFAULT_URL) -> None:
    """List the endpoints without their secrets."""
    table = Table(Column("endpoint", no_wrap=True, min_width=30), "address", "events", "state")
    with SGLP(url) as service:
        for endpoint in service.webhooks():
            state = "on" if endpoint["enabled"] else f"off: {endpoint['disabled_reason']}"
            events = " ".join(name.removeprefix("job.") for name in endpoint["event_types"])
            table.add_row(endpoint["id"], endpoint["url"], events, state)
    console.print(table, markup=False)


@app.command()
def delete(endpoint_id: Endpoint, url: Url = DEFAULT_URL) -> None:
    """Delete an endpoint; deliveries that were not sent yet are dropped."""
    with SGLP(url) as service:
        service.delete_webhook(endpoint_id)
        console.print("deleted")


@app.command()
def rotate(endpoint_id: Endpoint, url: Url = DEFAULT_URL) -> None:
    """Print a new secret for an endpoint; for 24 hours, deliveries are signed with the old one as well."""
    with SGLP(url) as service:
        print(service.rotate_webhook(endpoint_id)["secret"])


@app.command()
def deliveries(
    endpoint_id: Endpoint, limit: Annotated[int, typer.Option(min=1, max=100)] = 20, url: Url = DEFAULT_URL
) -> None:
    """List the newest deliveries of an endpoint, with their outcomes."""
    table = Table(
        Column("delivery", no_wrap=True, min_width=30),
        Column("job", no_wrap=True, min_width=30),
        "event",
        "tries",
        "outcome (UTC)",
    )
    with SGLP(url) as service:
        for delivery in service.webhook_deliveries(endpoint_id, limit=limit):
            event = delivery["event_type"].removeprefix("job.")
            table.add_row(delivery["id"], delivery["job_id"], event, str(delivery["attempts"]), _outcome(delivery))
    console.print(table, markup=False)


@app.command()
def redeliver(
    delivery_id: Annotated[
        str, typer.Argument(metavar="DELIVERY", help="msg_…, as `sglp webhooks deliveries` shows it.")
    ],
    url: Url = DEFAULT_URL,
) -> None:
    """Send a delivery again, under the same webhook-id."""
    with SGLP(url) as service:
        service.redeliver_webhook(delivery_id)
        console.print("will be sent again")


def _outcome(delivery: WebhookDelivery) -> str:
    if delivery["delivered_at"]:
        return f"delivered {_minute(delivery['delivered_at'])}"
    error = delivery["last_error"] or "not tried yet"
    return f"{error}; next try {_minute(delivery['next_at'])}" if delivery["next_at"] else f"{error}; given up"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")

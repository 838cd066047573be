"""The `sglp` command: the service on this machine, and the client of one anywhere."""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Column, Table

from client import demo as demo_story
from client.live import JobFailed, follow, require_success
from client.sdk import SGLP, DownloadDamaged, NothingToDownload, SGLPProblem
from client.stack import EmbeddedStack, StackFailed

app = typer.Typer(add_completion=False, no_args_is_help=True)
console = Console()

Url = Annotated[str, typer.Option(envvar="SGLP_URL", help="Where the service answers.")]
HERE = "http://127.0.0.1:8000"


@app.callback()
def main() -> None:
    """Makes trained neural networks smaller by removing whole layers."""


@app.command()
def up(
    state: Annotated[Path, typer.Option(help="Folder for everything the service keeps.")] = Path(".sglp"),
    models: Annotated[
        list[Path] | None, typer.Option(help="Folder that file:// models may come from; repeatable.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on, on the loopback interface only.")] = 8000,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    with _told_plainly(), EmbeddedStack(state, model_roots=models or [], port=port) as stack:
        console.print(f"SGLP is ready at {stack.url}", highlight=False)
        console.print("[bold red]There is no authentication: every program on this machine can use it.[/]")
        while True:
            stack.check()
            time.sleep(0.5)


@app.command()
def submit(
    model: Annotated[str, typer.Argument(help="A path on the service's machine, file://…, or hf://org/name.")],
    remove: Annotated[
        float | None, typer.Option(help="Fraction to remove; without it the model is only analysed.")
    ] = None,
    of: Annotated[str, typer.Option(help="What the fraction is of: parameters, flops or layers.")] = "parameters",
    max_drop: Annotated[
        float | None, typer.Option(help="Instead of --remove: as much as loses no more of --metric than this.")
    ] = None,
    metric: Annotated[str, typer.Option(help="perplexity, accuracy or agreement.")] = "perplexity",
    sweep: Annotated[
        list[float] | None, typer.Option(help="Instead of --remove: a fraction to look at, repeatable; no model comes.")
    ] = None,
    estimate: Annotated[bool, typer.Option(help="Only say what the job would take; no weight is read.")] = False,
    options: Annotated[
        str, typer.Option(help="More of the job specification as JSON, such as '{\"calibration\": …}'.")
    ] = "{}",
    watch: Annotated[bool, typer.Option(help="Follow the job to its end.")] = False,
    url: Url = HERE,
) -> None:
    """Submit a job and print its id."""
    try:
        more: dict[str, Any] = json.loads(options)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--options") from None
    if sum((remove is not None, max_drop is not None, bool(sweep))) > 1:
        raise typer.BadParameter("give one of --remove, --max-drop and --sweep, or none of them")
    asked: dict[str, Any] = {"mode": "analyze"}
    if remove is not None:
        asked = {"target": {"kind": of, "ratio": remove}}
    elif max_drop is not None:
        asked = {"target": {"kind": "quality", "metric": metric, "max_drop": max_drop}}
    elif sweep:
        asked = {"mode": "sweep", "target": {"kind": "sweep", "of": of, "ratios": sweep}}
    if estimate:
        asked["mode"] = "estimate"
    spec: dict[str, Any] = {
        **more,
        "model": {**more.get("model", {}), "uri": model if "://" in model else Path(model).resolve().as_uri()},
        **asked,
    }
    with _told_plainly(), SGLP(url) as service:
        job_id = service.submit(spec)["id"]
        print(job_id)
        if watch:
            require_success(follow(service, job_id, console))


@app.command()
def retry(
    job_id: Annotated[str, typer.Argument(help="A job that has ended.")],
    watch: Annotated[bool, typer.Option(help="Follow the new job to its end.")] = False,
    url: Url = HERE,
) -> None:
    """Submit a job again and print the new job's id."""
    with _told_plainly(), SGLP(url) as service:
        new_id = service.retry(job_id)["id"]
        print(new_id)
        if watch:
            require_success(follow(service, new_id, console))


@app.command()
def delete(job_id: Annotated[str, typer.Argument(help="A job that has ended.")], url: Url = HERE) -> None:
    """Delete a job that has ended, with everything it has made."""
    with _told_plainly(), SGLP(url) as service:
        service.delete(job_id)


@app.command()
def jobs(url: Url = HERE, limit: Annotated[int, typer.Option(min=1, max=100)] = 20) -> None:
    """List the newest jobs."""
    # An id is there to be copied, whatever the width of the terminal.
    table = Table(Column("job", no_wrap=True, min_width=30), "status", "phase", "model", "created (UTC)")
    with _told_plainly(), SGLP(url) as service:
        for job in itertools.islice(service.list(limit=limit), limit):
            model = job["spec"]["model"]["uri"].rpartition("/")[2]
            table.add_row(job["id"], job["status"], job["phase"], model, job["created_at"][:16].replace("T", " "))
    console.print(table)


@app.command()
def watch(job_id: str, url: Url = HERE) -> None:
    """Follow a job to its end."""
    with _told_plainly(), SGLP(url) as service:
        require_success(follow(service, job_id, console))


@app.command()
def cancel(job_id: str, url: Url = HERE) -> None:
    """Cancel a job."""
    with _told_plainly(), SGLP(url) as service:
        console.print(service.cancel(job_id)["status"])


@app.command()
def download(
    job_id: str,
    out: Annotated[Path | None, typer.Option(help="Default: a folder named like the job.")] = None,
    url: Url = HERE,
) -> None:
    """Download what a job has made, every file checked by its sha256."""
    with _told_plainly(), SGLP(url) as service:
        console.print(str(service.download(job_id, out or Path(job_id))), soft_wrap=True)


@app.command()
def demo() -> None:
    """Compress a real model through the service, from start to end, in the current folder."""
    with _told_plainly():
        demo_story.run(console)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Compress a model here and now, without the service; `sglp compress --help` lists the options.",
)
def compress(context: typer.Context) -> None:
    # The method is another program to the client, which must run where no torch is installed.
    os.execv(sys.executable, [sys.executable, "-m", "sglp_core", "compress", *context.args])


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Look at several ratios here and now, without the service; `sglp sweep --help` lists the options.",
)
def sweep(context: typer.Context) -> None:
    os.execv(sys.executable, [sys.executable, "-m", "sglp_core", "sweep", *context.args])


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Say here and now what a job would take, without the service; `sglp estimate --help` lists the options.",
)
def estimate(context: typer.Context) -> None:
    os.execv(sys.executable, [sys.executable, "-m", "sglp_core", "estimate", *context.args])


@contextmanager
def _told_plainly() -> Iterator[None]:
    """What a user can cause or meet ends as one plain message; 130 is the status after Ctrl-C, 143 after SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A script starts its background programs with SIGINT ignored, and they would not notice being interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    except (SGLPProblem, DownloadDamaged, NothingToDownload, JobFailed, StackFailed, demo_story.ModelMissing) as error:
        message = str(error)
    except httpx.TransportError as error:
        message = f"the service does not answer ({error}); is it running? Start it with: sglp up"
    except httpx.HTTPStatusError as error:
        message = f"the service answered {error.response.status_code}, and not in its own words; is a proxy in between?"
    else:
        return
    Console(stderr=True).print("failed:", message, soft_wrap=True, markup=False, highlight=False)
    raise typer.Exit(1)

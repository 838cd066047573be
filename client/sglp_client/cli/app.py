"""The `sglp` command: the service on this machine, and the client of one anywhere."""

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from sglp_client.cli import keys, uploads, webhooks
from sglp_client.cli.errors import HERE, Url, told_plainly
from sglp_client.cli.progress import follow, require_success
from sglp_client.cli.send_files import send
from sglp_client.cli.tables import show_figures
from sglp_client.sdk import SGLP
from sglp_service import demo as demo_story
from sglp_service.embedded_stack import EmbeddedStack

app = typer.Typer(add_completion=False, no_args_is_help=True)
app.add_typer(keys.app, name="keys")
app.add_typer(uploads.app, name="uploads")
app.add_typer(webhooks.app, name="webhooks")
console = Console()

API_KEY = "SGLP_API_KEY"


@app.callback()
def main(
    api_key: Annotated[
        str | None, typer.Option(envvar=API_KEY, help="Key of the service; better kept in the environment variable.")
    ] = None,
) -> None:
    """Makes trained neural networks smaller by removing whole layers."""
    if api_key:
        # Where every command's client looks for it, so that no command need pass it on.
        os.environ[API_KEY] = api_key


@app.command()
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
    with (
        told_plainly(),
        EmbeddedStack(state, model_roots=models or [], port=port, require_keys=require_keys) as stack,
    ):
        console.print(f"SGLP is ready at {stack.url}", highlight=False)
        if stack.ignored:
            console.print(f"`sglp up` decides itself, whatever they say: {', '.join(stack.ignored)}", highlight=False)
        if not require_keys:
            console.print("[bold red]There is no authentication: every program on this machine can use it.[/]")
        while True:
            stack.check()
            time.sleep(0.5)


@app.command()
def submit(
    model: Annotated[
        str, typer.Argument(help="A path on the service's machine, file://…, hf://org/name, or upload://…")
    ],
    remove: Annotated[
        float | None, typer.Option(help="Fraction to remove; without it the model is only analysed.")
    ] = None,
    of: Annotated[
        str | None, typer.Option(help="What the fraction is of: parameters (if not given), flops or layers.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Instead of --remove: as much as loses no more of --metric than this.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="For --max-drop: perplexity (if not given), accuracy or agreement.")
    ] = None,
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
        more = json.loads(options)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--options") from None
    if not isinstance(more, dict) or not isinstance(more.get("model", {}), dict):
        raise typer.BadParameter("must be a JSON object, and so must be its `model`", param_hint="--options")
    if metric is not None and max_drop is None:
        raise typer.BadParameter("goes with --max-drop", param_hint="--metric")
    if of is not None and remove is None and not sweep:
        raise typer.BadParameter("goes with --remove or --sweep", param_hint="--of")
    if sum((remove is not None, max_drop is not None, bool(sweep))) > 1:
        raise typer.BadParameter("give one of --remove, --max-drop and --sweep, or none of them")
    asked: dict[str, Any] = {"mode": "analyze"}
    if remove is not None:
        asked = {"target": {"kind": of or "parameters", "ratio": remove}}
    elif max_drop is not None:
        asked = {"target": {"kind": "quality", "metric": metric or "perplexity", "max_drop": max_drop}}
    elif sweep:
        asked = {"mode": "sweep", "target": {"kind": "sweep", "of": of or "parameters", "ratios": sweep}}
    if estimate:
        asked["mode"] = "estimate"
    spec: dict[str, Any] = {
        **more,
        "model": {**more.get("model", {}), "uri": model if "://" in model else _as_path(model)},
        **asked,
    }
    with told_plainly(), SGLP(url) as service:
        job_id = service.submit(spec)["id"]
        print(job_id)
        if watch:
            _follow_to_end(service, job_id)


def _as_path(model: str) -> str:
    path = Path(model)
    if not path.exists() and len(path.parts) == 2:
        Console(stderr=True).print(
            f"taken for a path, which is not on this machine; a model of a hub is hf://{model}", markup=False
        )
    return path.resolve().as_uri()


def _follow_to_end(service: SGLP, job_id: str) -> None:
    try:
        job = follow(service, job_id, console)
    except KeyboardInterrupt:
        console.print(f"the job goes on: sglp watch {job_id}, or sglp cancel {job_id}", markup=False, highlight=False)
        raise
    require_success(job)
    show_figures(console, job["spec"]["model"]["uri"].rpartition("/")[2], job["result"] or {})
    console.print(f"sglp download {job_id}", markup=False, highlight=False)


@app.command()
def upload(
    files: Annotated[
        list[Path], typer.Argument(help="The files of a model, its folder, or one file of data.", exists=True)
    ],
    kind: Annotated[str | None, typer.Option(help="model or dataset; by default told from the files.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; by default like the first file or folder.")] = None,
    url: Url = HERE,
) -> None:
    """Send files to the service and print the upload:// URI that a job can name."""
    with told_plainly(), SGLP(url) as service:
        print(send(service, files, kind, name)["uri"])


@app.command()
def retry(
    job_id: Annotated[str, typer.Argument(help="A job that has ended.")],
    watch: Annotated[bool, typer.Option(help="Follow the new job to its end.")] = False,
    url: Url = HERE,
) -> None:
    """Submit a job again and print the new job's id."""
    with told_plainly(), SGLP(url) as service:
        new_id = service.retry(job_id)["id"]
        print(new_id)
        if watch:
            _follow_to_end(service, new_id)


@app.command()
def delete(job_id: Annotated[str, typer.Argument(help="A job that has ended.")], url: Url = HERE) -> None:
    """Delete a job that has ended, with everything it has made."""
    with told_plainly(), SGLP(url) as service:
        service.delete(job_id)


@app.command()
def jobs(url: Url = HERE, limit: Annotated[int, typer.Option(min=1, max=100)] = 20) -> None:
    """List the newest jobs."""
    # An id is there to be copied, whatever the width of the terminal.
    table = Table(Column("job", no_wrap=True, min_width=30), "status", "phase", "model", "created (UTC)")
    with told_plainly(), SGLP(url) as service:
        for job in itertools.islice(service.list(limit=limit), limit):
            model = job["spec"]["model"]["uri"].rpartition("/")[2]
            table.add_row(job["id"], job["status"], job["phase"], model, job["created_at"][:16].replace("T", " "))
    console.print(table)


@app.command()
def watch(job_id: str, url: Url = HERE) -> None:
    """Follow a job to its end."""
    with told_plainly(), SGLP(url) as service:
        _follow_to_end(service, job_id)


@app.command()
def cancel(job_id: str, url: Url = HERE) -> None:
    """Cancel a job."""
    with told_plainly(), SGLP(url) as service:
        console.print(service.cancel(job_id)["status"])


@app.command()
def download(
    job_id: str,
    out: Annotated[Path | None, typer.Option(help="Default: a folder named like the job.")] = None,
    url: Url = HERE,
) -> None:
    """Download what a job has made, every file checked by its sha256."""
    with told_plainly(), SGLP(url) as service:
        console.print(str(service.download(job_id, out or Path(job_id))), soft_wrap=True)


@app.command()
def demo() -> None:
    """Compress a real model through the service, from start to end, in the current folder."""
    with told_plainly():
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

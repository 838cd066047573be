"""The `sglp` command. Its commands are requests to a service; the package `sglp` adds some that run on this machine."""

import itertools
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from typer.core import TyperGroup

from sglp_client.cli import keys, tenants, uploads, webhooks
from sglp_client.cli.options import DEFAULT_URL, Url
from sglp_client.cli.plain_errors import plain_errors
from sglp_client.cli.progress import follow, require_success
from sglp_client.cli.removal import (
    KeepLayers,
    Leave,
    PlanFile,
    Protect,
    Removal,
    RemoveCount,
    RemoveLayers,
    layer_numbers,
)
from sglp_client.cli.sending_files import send
from sglp_client.cli.service_commands import service_commands
from sglp_client.cli.tables import show_figures
from sglp_client.resources import Json, UploadKind
from sglp_client.sdk import SGLP

API_KEY = "SGLP_API_KEY"


class Commands(TyperGroup):
    """The commands of this package and those of the package `sglp`, all with plain errors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in service_commands():
            self.add_command(command)

    # Typer keeps its own type of a context private.
    def invoke(self, ctx: Any) -> Any:
        """Run the command that the user has typed."""
        with plain_errors():
            return super().invoke(ctx)


app = typer.Typer(cls=Commands, add_completion=False, no_args_is_help=True)
app.add_typer(keys.app, name="keys")
app.add_typer(tenants.app, name="tenants")
app.add_typer(uploads.app, name="uploads")
app.add_typer(webhooks.app, name="webhooks")
console = Console()


@app.callback()
def main(
    api_key: Annotated[
        str | None, typer.Option(envvar=API_KEY, help="Key of the service; better kept in the environment variable.")
    ] = None,
) -> None:
    """Makes trained neural networks smaller by removing whole layers."""
    if api_key:
        # `SGLP` reads it there, whichever command makes one.
        os.environ[API_KEY] = api_key


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
    remove_count: RemoveCount = None,
    leave: Leave = None,
    remove_layers: RemoveLayers = None,
    keep_layers: KeepLayers = None,
    plan: PlanFile = None,
    protect: Protect = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Instead of --remove: remove as much as possible while --metric gets worse by at most this."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="For --max-drop: perplexity (if not given), accuracy or agreement.")
    ] = None,
    sweep: Annotated[
        list[float] | None,
        typer.Option(help="Instead of --remove: a ratio to compare; repeatable. No model is written."),
    ] = None,
    estimate: Annotated[bool, typer.Option(help="Only estimate what the job would take; no weights are read.")] = False,
    options: Annotated[
        str, typer.Option(help="Other fields of the job specification as JSON, such as '{\"calibration\": …}'.")
    ] = "{}",
    watch: Annotated[bool, typer.Option(help="Follow the job to its end.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a job and print its id."""
    target = Removal(
        remove=remove,
        of=of,
        remove_count=remove_count,
        leave=leave,
        remove_layers=remove_layers,
        keep_layers=keep_layers,
        plan=plan,
        max_drop=max_drop,
        metric=metric,
        sweep=sweep,
    ).target()
    spec = _read_options(options)
    spec["model"] = {**spec.get("model", {}), "uri": model if "://" in model else _as_file_uri(model)}
    if protect is not None:
        spec["method"] = {**spec.get("method", {}), "protected": layer_numbers(protect, "--protect")}
    if target is not None:
        spec["target"] = target
    if estimate or sweep or target is None:
        spec["mode"] = "estimate" if estimate else "sweep" if sweep else "analyze"
    with SGLP(url) as service:
        job_id = service.submit(spec)["id"]
        print(job_id)
        if watch:
            _follow_to_end(service, job_id)


def _read_options(options: str) -> Json:
    try:
        spec = json.loads(options)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--options") from None
    if not isinstance(spec, dict) or not all(isinstance(spec.get(name, {}), dict) for name in ("model", "method")):
        message = "must be a JSON object, and so must be its `model` and `method`"
        raise typer.BadParameter(message, param_hint="--options")
    return spec


def _as_file_uri(model: str) -> str:
    path = Path(model)
    if not path.exists() and len(path.parts) == 2:
        Console(stderr=True).print(
            f"{model} is read as a path, which is not on this machine; for a model on the Hugging Face Hub, write "
            f"hf://{model}",
            markup=False,
            soft_wrap=True,
        )
    return path.resolve().as_uri()


def _follow_to_end(service: SGLP, job_id: str) -> None:
    try:
        job = follow(service, job_id, console)
    except KeyboardInterrupt:
        console.print(
            f"the job still runs: sglp watch {job_id}, or sglp cancel {job_id}", markup=False, highlight=False
        )
        raise
    require_success(job)
    show_figures(console, job["spec"]["model"]["uri"].rpartition("/")[2], job["result"] or {})
    console.print(f"sglp download {job_id}", markup=False, highlight=False)


@app.command()
def upload(
    files: Annotated[
        list[Path], typer.Argument(help="The files of a model, its folder, or one file of data.", exists=True)
    ],
    kind: Annotated[
        UploadKind | None, typer.Option(help="model or dataset; by default guessed from the files.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the upload; by default that of the first file or folder.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Send files to the service and print their upload:// URI, which `sglp submit` takes."""
    with SGLP(url) as service:
        print(send(service, files, kind, name)["uri"])


@app.command()
def retry(
    job_id: Annotated[str, typer.Argument(help="A job that has ended.")],
    watch: Annotated[bool, typer.Option(help="Follow the new job to its end.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a job again and print the new job's id."""
    with SGLP(url) as service:
        new_id = service.retry(job_id)["id"]
        print(new_id)
        if watch:
            _follow_to_end(service, new_id)


@app.command()
def delete(job_id: Annotated[str, typer.Argument(help="A job that has ended.")], url: Url = DEFAULT_URL) -> None:
    """Delete a job that has ended, and its files."""
    with SGLP(url) as service:
        service.delete(job_id)


@app.command()
def jobs(url: Url = DEFAULT_URL, limit: Annotated[int, typer.Option(min=1, max=100)] = 20) -> None:
    """List the newest jobs."""
    # An id must be whole to be copied, whatever the width of the terminal.
    table = Table(Column("job", no_wrap=True, min_width=30), "status", "phase", "model", "created (UTC)")
    with SGLP(url) as service:
        for job in itertools.islice(service.list(limit=limit), limit):
            model = job["spec"]["model"]["uri"].rpartition("/")[2]
            table.add_row(job["id"], job["status"], job["phase"], model, job["created_at"][:16].replace("T", " "))
    console.print(table)


@app.command()
def watch(job_id: str, url: Url = DEFAULT_URL) -> None:
    """Follow a job to its end."""
    with SGLP(url) as service:
        _follow_to_end(service, job_id)


@app.command()
def cancel(job_id: str, url: Url = DEFAULT_URL) -> None:
    """Cancel a job."""
    with SGLP(url) as service:
        console.print(service.cancel(job_id)["status"])


@app.command()
def download(
    job_id: str,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default one named like the job.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Download the files of a job; each is checked by its sha256."""
    with SGLP(url) as service:
        console.print(str(service.download(job_id, out or Path(job_id))), soft_wrap=True)

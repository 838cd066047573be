"""`python -m deploy.images`: build both images, print what is in them, and run one job through them.

PostgreSQL, Redis and an S3 server are those of the tests, on loopback. docs/operate/deploy.md has the output.
"""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.images.contents import Contents, contents_of, write_bill
from deploy.images.engines import Buildah, Engine, find_engine
from deploy.images.local_base import make_base
from deploy.images.one_job import run_one_job

ROOT = Path(__file__).parents[2]
IMAGES = ("api", "worker")

console = Console(width=120)


def main(
    bill_tool: Annotated[Path, typer.Option(help="Folder that cyclonedx-bom is installed in.")],
    bills: Annotated[Path, typer.Option(help="Folder for `sbom-api.json` and `sbom-worker.json`.")] = Path("build"),
    local_base: Annotated[
        bool, typer.Option(help="Make python:3.11-slim with debootstrap, where no registry of images is reached.")
    ] = False,
    torch_index: Annotated[str | None, typer.Option(help="Build argument TORCH_INDEX of the worker.")] = None,
    pip_conf: Annotated[Path | None, typer.Option(help="A pip.conf for the build; it is in no image.")] = None,
    volume: Annotated[list[str] | None, typer.Option(help="folder:folder that the build may read.")] = None,
) -> None:
    """Exit with 1 where an image holds what it must not, or the job does not succeed."""
    with tempfile.TemporaryDirectory(prefix="sglp-images-") as name, ExitStack() as stack:
        directory = Path(name)
        # Servers and containers run as other users and must reach their folders.
        directory.chmod(0o755)
        engine = stack.enter_context(find_engine(directory, pip_conf, volume or []))
        console.print(f"built with {engine.name}")
        if local_base:
            if not isinstance(engine, Buildah):
                raise typer.BadParameter("--local-base needs buildah")
            make_base(engine, directory)
        arguments = {"REVISION": _revision(), **({"TORCH_INDEX": torch_index} if torch_index else {})}
        found = {image: _build(engine, image, arguments) for image in IMAGES}
        show(found)
        bills.mkdir(parents=True, exist_ok=True)
        for image in IMAGES:
            write_bill(engine, image, bill_tool, bills / f"sbom-{image}.json")
        wrong = [f"{image}: {problem}" for image, contents in found.items() for problem in contents.problems()]
        for line in wrong:
            console.print(line)
        console.print(run_one_job(engine, directory))
    if wrong:
        raise typer.Exit(1)


def show(found: dict[str, Contents]) -> None:
    """Print what is in the images, one beside the other."""
    table = Table("", *found)
    rows = {image: contents.rows() for image, contents in found.items()}
    for row in rows[IMAGES[0]]:
        table.add_row(row, *(rows[image][row] for image in found))
    console.print(table)


def _build(engine: Engine, image: str, arguments: dict[str, str]) -> Contents:
    with console.status(f"builds the image {image}"):
        engine.build(image, ROOT / f"docker/{image}.Dockerfile", ROOT, arguments)
    return contents_of(engine, image)


def _revision() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    typer.run(main)

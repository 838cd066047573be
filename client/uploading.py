"""Files on their way to the service, with a bar on a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from client.sdk import SGLP

# What only models are made of.
MODEL_SUFFIXES = {".safetensors", ".gguf"}


class NotUploadable(ValueError):
    """These files are no upload."""


def send(service: SGLP, paths: Sequence[Path], kind: str | None, name: str | None) -> dict[str, Any]:
    """Upload files, or the files of a folder. Raises `NotUploadable`."""
    files = [file for path in paths for file in (_of_folder(path) if path.is_dir() else [path])]
    if not files:
        raise NotUploadable(f"{paths[0]} holds no files")
    if kind is None:
        kind = "model" if any(file.suffix.lower() in MODEL_SUFFIXES for file in files) else "dataset"
    # Standard output is for the URI alone.
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    name = name or paths[0].resolve().name
    with bars:
        bar = bars.add_task(name, total=sum(file.stat().st_size for file in files))
        return service.upload(files, kind=kind, name=name, on_bytes=lambda more: bars.advance(bar, more))


def _of_folder(folder: Path) -> list[Path]:
    """Its files but hidden ones; an upload has no folders in it."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

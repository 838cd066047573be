"""Uploading files to the service, with a progress bar on a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from sglp_client.errors import NotUploadable
from sglp_client.resources import Upload, UploadKind
from sglp_client.sdk import SGLP

# Only models have such files.
MODEL_SUFFIXES = {".safetensors", ".gguf"}
CONFIGURATION = "config.json"
DATA_SUFFIXES = {".txt", ".jsonl", ".parquet", ".zip"}


def send(service: SGLP, paths: Sequence[Path], kind: UploadKind | None, name: str | None) -> Upload:
    """Upload files, or the files of a folder; `kind` is by default guessed from them. Raises `NotUploadable`."""
    files = [file for path in paths for file in (_files_of(path) if path.is_dir() else [path])]
    kind = kind or _kind_of(files)
    if not files:
        raise NotUploadable(f"{paths[0]} holds no files; of a folder of class folders with images, send a .zip")
    if kind == "model" and not any(file.suffix.lower() in MODEL_SUFFIXES for file in files):
        raise NotUploadable(
            f"{paths[0]} holds no .safetensors or .gguf weights; save the model with model.save_pretrained(…)"
        )
    if kind == "dataset" and not all(file.suffix.lower() in DATA_SUFFIXES for file in files):
        raise NotUploadable(f"data is one file of {', '.join(sorted(DATA_SUFFIXES))}")
    # Standard output has the URI alone.
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


def _kind_of(files: Sequence[Path]) -> UploadKind:
    is_model = any(file.suffix.lower() in MODEL_SUFFIXES or file.name == CONFIGURATION for file in files)
    return "model" if is_model else "dataset"


def _files_of(folder: Path) -> list[Path]:
    """The files of the folder itself but hidden ones; an upload has no folders in it."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

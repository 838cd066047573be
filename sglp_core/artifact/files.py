"""Write the files of the artifact: safetensors weights, tokenizer or image processor, and a manifest."""

import json
import mimetypes
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglp_core.checkpoints.carried_files import model_files
from sglp_core.checkpoints.limits import require_space
from sglp_core.checkpoints.model_folder import sha256_of
from sglp_core.loading.source import Source
from sglp_core.versions import versions

NOT_PUBLISHED = {"manifest.json", "similarity.f32"}


def write_model(model: Any, source: Source, directory: Path) -> None:
    """Save the pruned model, and copy the files of the original that do not depend on its layers.

    Raises `InsufficientStorage` before any file is written where the disk is too full.
    """
    weights = sum(t.nbytes for t in {t.data_ptr(): t for t in model.state_dict().values()}.values())
    directory.mkdir(parents=True)
    require_space(directory, int(weights * 1.02), "the compressed model")
    model.save_pretrained(directory)
    copy_processor_files(source, directory)


def copy_processor_files(source: Source, directory: Path) -> None:
    """Copy tokenizer, image processor and licence of the original, which do not depend on its layers."""
    for name in model_files(source.directory).carried:
        (directory / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.directory / name, directory / name)


def write_manifest(directory: Path, facts: Mapping[str, object]) -> None:
    """Write `manifest.json`: these facts, the versions, and name, size and sha256 of every published file."""
    files = [
        {
            "name": file.relative_to(directory).as_posix(),
            "media_type": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
            "size_bytes": file.stat().st_size,
            "sha256": sha256_of(file),
        }
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name not in NOT_PUBLISHED
    ]
    (directory / "manifest.json").write_text(json.dumps({**facts, "versions": versions(), "files": files}, indent=2))

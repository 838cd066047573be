"""The part of every cache key that identifies the model and the code; results depend on it besides their data."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from sglp_core.checkpoints.carried_files import model_files
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.versions import versions

PACKAGE = Path(__file__).parents[1]


def common_key(loaded: LoadedModel) -> dict[str, object]:
    """Weights and configuration, tokenizer or image processor, type of device, libraries, and the code of this package.

    Because the code is part of the key, a changed version of this package never reads results of another version.
    """
    folder = loaded.source.directory
    processor_files = (folder / name for name in model_files(folder).carried)
    return {
        "model": loaded.source.digest,
        "processor": _digest(folder, processor_files),
        "class": loaded.class_name,
        "dtype": str(loaded.model.dtype),
        "device": loaded.model.device.type,
        "versions": versions(),
        "code": code_digest(PACKAGE),
    }


@cache
def code_digest(package: Path) -> str:
    """sha256 over the relative paths and contents of all Python files below `package`."""
    return _digest(package, package.rglob("*.py"))


def _digest(folder: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        if file.is_file():
            digest.update(
                f"{file.relative_to(folder).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode()
            )
    return digest.hexdigest()

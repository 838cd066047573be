"""What any result measured on a model depends on besides its data: part of every key of the cache."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.loading.processor import CARRIED
from sglp_core.versions import versions

PACKAGE = Path(__file__).parents[1]


def common_key(loaded: LoadedModel) -> dict[str, Any]:
    """Weights and configuration, tokenizer or image processor, kind of device, libraries, and the code of this package.

    With the code in the key, a release or an edit never meets what another version has measured.
    """
    folder = loaded.source.directory
    carried = (file for pattern in CARRIED for file in folder.glob(pattern))
    return {
        "model": loaded.source.digest,
        "processor": _digest(folder, carried),
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

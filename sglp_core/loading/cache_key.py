"""What any result measured on a model depends on besides its data: part of every key of the cache."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sglp_core.loading.loaded_model import Opened
from sglp_core.loading.processor import CARRIED
from sglp_core.versions import versions


def common_key(opened: Opened) -> dict[str, Any]:
    """Weights and configuration, tokenizer or image processor, kind of device, libraries, and the code of this package.

    With the code in the key, a release or an edit never meets what another version has measured.
    """
    carried = (file for pattern in CARRIED for file in opened.source.directory.glob(pattern))
    return {
        "model": opened.source.digest,
        "processor": _digest(carried),
        "class": opened.class_name,
        "dtype": str(opened.model.dtype),
        "device": opened.model.device.type,
        "versions": versions(),
        "code": _code_digest(),
    }


@cache
def _code_digest() -> str:
    return _digest(Path(__file__).parent.rglob("*.py"))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        if file.is_file():
            digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()

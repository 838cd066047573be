"""Check a model folder and the files in it before any library reads them."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sglp_core.checkpoints.strict_json import read_json, require_json
from sglp_core.errors import BadCalibration, ModelNotFound, SourceForbidden, UnsafeFormat

READ_BY_TOKENIZERS = {
    "tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "chat_template.json",
}  # fmt: skip
LAYER_COUNTS = re.compile(r"(^|_)(layers?|depths?|block_count)$")
PICKLE_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x1f\x8b", b"BZh")


def local_path(source: str, roots: Sequence[Path] | None) -> Path:
    """The resolved path of a data source given as a path or a `file://` URI.

    Raises `SourceForbidden` outside `roots` and `BadCalibration` where there is no such file.
    """
    parts = urlsplit(source)
    try:
        return within(Path(unquote(parts.path)) if parts.scheme == "file" else Path(source), roots)
    except ModelNotFound as error:
        raise BadCalibration(str(error)) from error


def within(path: Path, roots: Sequence[Path] | None) -> Path:
    """The path with links resolved; `roots` of None allows any place.

    Raises `SourceForbidden` where it leaves `roots` and `ModelNotFound` where it does not exist.
    """
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelNotFound(f"there is no file or directory {path}") from error
    if roots is not None and not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise SourceForbidden(f"{path} does not lie below one of the configured roots")
    if not resolved.exists():
        raise ModelNotFound(f"there is no file or directory {path}")
    return resolved


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_gguf(path: Path) -> None:
    """Raise `UnsafeFormat` for a file whose content does not begin as GGUF does."""
    with path.open("rb") as file:
        start = file.read(8)
    refuse_pickle(path, start)
    if start[:4] != b"GGUF":
        raise UnsafeFormat(f"{path.name} is neither a GGUF file nor a model directory")


def refuse_adapters(path: Path) -> None:
    """Raise `UnsafeFormat` for a model with a peft adapter in its folder.

    transformers would add the adapter to the checked weights, or load the model that the adapter names instead.
    """
    folder = path.parent if path.is_file() else path
    if (folder / "adapter_config.json").exists():
        raise UnsafeFormat(
            "there is an adapter_config.json beside the weights; merge the adapter into the weights, or remove it"
        )


def check_folder(directory: Path, roots: Sequence[Path] | None) -> None:
    """Check every file of a model folder before any library reads it.

    Every entry is a regular file or folder with a printable name and resolves to a place below `roots`; every file that
    transformers reads as JSON is valid JSON; no configuration refers to custom code. Raises `SourceForbidden`,
    `ModelNotFound` for a broken link, and `UnsafeFormat`.
    """
    for entry in directory.rglob("*"):
        if not entry.name.isprintable():
            raise UnsafeFormat(f"the name of the file {entry.name!r} has characters that cannot be printed")
        resolved = within(entry, roots)
        if not resolved.is_file() and not resolved.is_dir():
            raise UnsafeFormat(f"{entry.name} is neither a file nor a folder")
    for file in directory.glob("*.json"):
        if "config" in file.name and _mentions(read_json(file), "auto_map"):
            raise UnsafeFormat(
                f"{file.name} has an auto_map, which refers to custom code, and code from a model is never run; only "
                "architectures that transformers itself contains can be pruned"
            )
        if file.name in READ_BY_TOKENIZERS:
            require_json(file)


def refuse_endless_layers(values: Any, tensors: int) -> None:
    """Raise `UnsafeFormat` where a configuration has more layers than the weights have tensors.

    Building such a model could take hours, even without memory for its weights.
    """
    if isinstance(values, list):
        for value in values:
            refuse_endless_layers(value, tensors)
    if isinstance(values, dict):
        for name, value in values.items():
            counts = [value] if isinstance(value, int) else value if isinstance(value, list) else []
            if LAYER_COUNTS.search(name) and any(isinstance(n, int) and n > tensors for n in counts):
                raise UnsafeFormat(f"config.json claims more layers ({name}) than the weights have tensors ({tensors})")
            refuse_endless_layers(value, tensors)


def _mentions(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_mentions(v, key) for v in value.values())
    return isinstance(value, list) and any(_mentions(v, key) for v in value)


def refuse_pickle(path: Path, start: bytes) -> None:
    """Raise `UnsafeFormat` for a file whose first bytes, `start`, are those of a pickle or an archive."""
    if start.startswith(PICKLE_MAGIC):
        raise UnsafeFormat(
            f"{path.name} is a pickle or an archive by its content, whatever its name; pickles can run code when they "
            "are read. Give a safetensors directory or a GGUF file"
        )

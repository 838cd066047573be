"""Check a model folder and the files in it before any library reads them."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sglp_core.checkpoints.strict_json import read_json, require_json
from sglp_core.errors import BadCalibration, ModelNotFound, SourceForbidden, UnsafeFormat

READ_BY_TOKENIZERS = {
    "tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "chat_template.json",
}  # fmt: skip
LAYER_COUNTS = re.compile(r"(^|_)(layers?|depths?|block_count)$")
# Where a configuration says how attention is computed.
ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
POINTER, POINTER_BYTES = b"version https://git-lfs", 1024
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
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
    """Raise `UnsafeFormat` for a file whose content does not begin as GGUF does.

    Raises `ModelNotFound` for a pointer of git-lfs and for a part of a split model.
    """
    refuse_pointer(path)
    refuse_part(path, 1)
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
    transformers reads as JSON is valid JSON; no configuration refers to custom code, except config.json by an
    `auto_map`, which may name the code that a class of transformers was made from. Raises `SourceForbidden`,
    `ModelNotFound` for a broken link and a pointer of git-lfs, and `UnsafeFormat`.
    """
    for entry in directory.rglob("*"):
        if not entry.name.isprintable():
            raise UnsafeFormat(f"the name of the file {entry.name!r} has characters that cannot be printed")
        resolved = within(entry, roots)
        if not resolved.is_file() and not resolved.is_dir():
            raise UnsafeFormat(f"{entry.name} is neither a file nor a folder")
        if resolved.is_file():
            refuse_pointer(entry)
    for file in directory.glob("*.json"):
        if "config" in file.name:
            _refuse_code(file)
        if file.name in READ_BY_TOKENIZERS:
            require_json(file)


def custom_code(file: str) -> UnsafeFormat:
    """The error for a configuration whose model needs custom code."""
    return UnsafeFormat(
        f"{file} has an auto_map, which refers to custom code, and code from a model is never run; only architectures "
        "that transformers itself contains can be pruned"
    )


def _refuse_code(file: Path) -> None:
    """Raise `UnsafeFormat` where a configuration refers to custom code, or to that of a hub."""
    values = read_json(file)
    # Whether that of config.json is needed is known when its class is looked for.
    own = {name: value for name, value in values.items() if (file.name, name) != ("config.json", "auto_map")}
    if any(True for _ in _values_of(own, "auto_map")):
        raise custom_code(file.name)
    for name in ATTENTION:
        for value in _values_of(values, name):
            # It may be an object with a value for each part of the model.
            if "/" in json.dumps(value):
                raise UnsafeFormat(
                    f"{file.name} names a kernel of a hub as its {name} ({value}), which is code, and code that comes "
                    "with a model is never run; remove the entry"
                )


def refuse_pointer(file: Path) -> None:
    """Raise `ModelNotFound` for a file of git-lfs that only says where its content is.

    For an estimate, of a weight file in a bucket or on a web server only the first 8 bytes may be there, and holes.
    """
    if file.stat().st_size <= POINTER_BYTES:
        with file.open("rb") as opened:
            start = opened.read(len(POINTER))
        if start == POINTER or start == POINTER[:8].ljust(len(POINTER), b"\0"):
            raise ModelNotFound(f"{file.name} is only a pointer of git-lfs to its content; run `git lfs pull`")


def refuse_part(path: Path, parts: int) -> None:
    """Raise `ModelNotFound` for a GGUF file that is one of several `parts`, by its header or its name."""
    named = SPLIT.search(path.name)
    parts = max(parts, int(named[2]) if named else 1)
    if parts > 1:
        first = SPLIT.sub(f"-00001-of-{parts:05}.gguf", path.name)
        raise ModelNotFound(
            f"{path.name} is one of the {parts} parts of a split model; join them with `llama-gguf-split --merge "
            f"{first} model.gguf` and give the whole file"
        )


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


def _values_of(value: Any, key: str) -> Iterator[Any]:
    """The values that a key has, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for each in value.values():
            yield from _values_of(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _values_of(each, key)


def refuse_pickle(path: Path, start: bytes) -> None:
    """Raise `UnsafeFormat` for a file whose first bytes, `start`, are those of a pickle or an archive."""
    if start.startswith(PICKLE_MAGIC):
        raise UnsafeFormat(
            f"{path.name} is a pickle or an archive by its content, whatever its name; pickles can run code when they "
            "are read. Give a safetensors directory or a GGUF file"
        )

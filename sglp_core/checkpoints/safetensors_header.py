"""Model formats on disk: an HF safetensors directory or one GGUF file; everything unsafe is refused before it is read.

Pickles are recognised by content, whatever they are called, and headers are checked against the file before any tensor
is read. No code that comes with a model is ever run.
"""

import hashlib
import json
import math
import re
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sglp_core.checkpoints.strict_json import read_json, require_json, unique_keys
from sglp_core.errors import InsufficientStorage, ModelNotFound, SourceForbidden, UnsafeFormat

# https://github.com/huggingface/safetensors#format
SAFETENSORS_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 32
# Beyond it no tensor can be made, not even an empty one, whose strides are products of its sides.
MAX_ELEMENTS = 2**63 - 1
READ_BY_TOKENIZERS = {
    "tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "chat_template.json",
}  # fmt: skip
LAYER_COUNTS = re.compile(r"(^|_)(layers?|depths?|block_count)$")
# Of a quantised weight.
FEWEST_BITS = 4
PICKLE_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x1f\x8b", b"BZh")


@dataclass(frozen=True)
class Source:
    """A model that may be opened: a directory stock `from_pretrained` loads, and what it was made from.

    `digest` is the sha256 over the names and contents of the configuration and weight files it came from.
    """

    directory: Path
    format: str
    digest: str
    licence: str | None


def open_source(path: Path, cache: Path, roots: Sequence[Path] | None = None) -> Source:
    """Check a local model and make it loadable; a GGUF file is converted once into `cache`, keyed by its content.

    Raises `ModelNotFound`, `SourceForbidden` (a link leads out of `roots`), `UnsafeFormat`, `InsufficientStorage`.
    """
    path = within(path, roots)
    refuse_adapters(path)
    if path.is_file():
        return _open_gguf(path, cache)
    return _open_directory(path, roots)


def within(path: Path, roots: Sequence[Path] | None) -> Path:
    """The path with links resolved; refuses one that leaves `roots` (None allows everything)."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelNotFound(f"there is no file or directory {path}") from error
    if roots is not None and not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise SourceForbidden(f"{path} does not lie below one of the configured roots")
    if not resolved.exists():
        raise ModelNotFound(f"there is no file or directory {path}")
    return resolved


def check_safetensors(path: Path) -> dict[str, Any]:
    """Read and check a safetensors header: length, types, bounds, no overlap, no gap. Returns the header.

    What passes is opened with the safetensors library too, which reads the same text by stricter rules of its own; a
    key that appears twice it would take.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        (length,) = struct.unpack("<Q", start.ljust(8, b"\xff"))
        fits = length <= min(MAX_HEADER_BYTES, size - 8)
        text = file.read(length) if fits else b""
        # The length of a sound header may begin with the same two bytes as a pickle does.
        if not text.startswith(b"{"):
            _refuse_pickle(path, start)
        if len(start) < 8:
            raise UnsafeFormat(f"{path.name} is too short to be a safetensors file")
        if not fits:
            raise UnsafeFormat(f"{path.name}: the header claims {length} bytes, the file has {size}")
    try:
        # As text: from bytes, Python would guess an encoding that the format does not allow.
        header: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise UnsafeFormat(f"{path.name}: the safetensors header is not valid JSON: {error}") from error
    if not text.startswith(b"{"):
        raise UnsafeFormat(f"{path.name}: the safetensors header is not an object")
    spans = sorted(
        _checked_span(path, name, entry, size - 8 - length) for name, entry in header.items() if name != "__metadata__"
    )
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise UnsafeFormat(f"{path.name}: tensors overlap or leave a gap at byte {min(begin, end)}")
        end = stop
    if end != size - 8 - length:
        raise UnsafeFormat(
            f"{path.name}: the header describes {end} bytes of tensors, the file holds {size - 8 - length}"
        )
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise UnsafeFormat(f"{path.name}: the safetensors library refuses the header: {error}") from error
    return header


def weight_files(directory: Path) -> list[Path]:
    """The safetensors shards of a model directory, in name order; refuses a directory that has none."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = _read_shards(index)
        missing = [n for n in shards if not (directory / n).is_file()]
        if missing:
            raise ModelNotFound(f"{index.name} names shards that are not there: {', '.join(missing)}")
        for name, tensors in shards.items():
            absent = tensors - check_safetensors(directory / name).keys()
            if absent:
                raise UnsafeFormat(f"{index.name} names tensors that {name} does not hold: {sorted(absent)[:5]}")
        return [directory / n for n in sorted(shards)]
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
    if pickles:
        raise UnsafeFormat(
            f"the model has only pickle weights ({', '.join(pickles)}), which can run code when they are read; "
            "save it again with model.save_pretrained(…), which writes safetensors"
        )
    raise ModelNotFound("the model directory holds neither model.safetensors nor model.safetensors.index.json")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_gguf(path: Path) -> None:
    """Refuse a file that is not GGUF by its content; raises `UnsafeFormat`."""
    with path.open("rb") as file:
        start = file.read(8)
    _refuse_pickle(path, start)
    if start[:4] != b"GGUF":
        raise UnsafeFormat(f"{path.name} is neither a GGUF file nor a model directory")


def refuse_adapters(path: Path) -> None:
    """Refuse a model that has adapters of peft in its folder; raises `UnsafeFormat`.

    transformers puts them on top of the weights that were checked, or takes the model from where they say it is.
    """
    folder = path.parent if path.is_file() else path
    if (folder / "adapter_config.json").exists():
        raise UnsafeFormat(
            "there is an adapter_config.json beside the weights; merge the adapter into them first, or take it away"
        )


def check_folder(directory: Path, roots: Sequence[Path] | None) -> None:
    """Check all that lies in a model folder before any library reads it.

    Every file is one, has a name that can be printed, and lies below `roots` whatever links say; what transformers
    reads as JSON is JSON; and no configuration names code of its own. Raises `SourceForbidden`, `ModelNotFound` for a
    link to nowhere, and `UnsafeFormat`.
    """
    for entry in directory.rglob("*"):
        if not entry.name.isprintable():
            raise UnsafeFormat(f"the name of the file {entry.name!r} has characters that cannot be printed")
        found = within(entry, roots)
        if not found.is_file() and not found.is_dir():
            raise UnsafeFormat(f"{entry.name} is neither a file nor a folder")
    for file in directory.glob("*.json"):
        if "config" in file.name and _mentions(read_json(file), "auto_map"):
            raise UnsafeFormat(
                f"{file.name} has an auto_map: it wants its own code to run, and code from a model is never run here; "
                "only architectures that transformers itself contains can be pruned"
            )
        if file.name in READ_BY_TOKENIZERS:
            require_json(file)


def refuse_endless_layers(values: Any, tensors: int) -> None:
    """Refuse a configuration of more layers than the weights have tensors: building it alone could take hours."""
    if isinstance(values, list):
        for value in values:
            refuse_endless_layers(value, tensors)
    if isinstance(values, dict):
        for name, value in values.items():
            counts = [value] if isinstance(value, int) else value if isinstance(value, list) else []
            if LAYER_COUNTS.search(name) and any(isinstance(n, int) and n > tensors for n in counts):
                raise UnsafeFormat(f"config.json claims more layers ({name}) than the weights have tensors ({tensors})")
            refuse_endless_layers(value, tensors)


def require_stored(parameters: int, stored_bits: int) -> None:
    """Refuse a model of far more parameters than its weights can hold, before memory is taken for them."""
    if parameters * FEWEST_BITS > stored_bits:
        raise UnsafeFormat(f"config.json describes {parameters:,} parameters, far more than the weights can hold")


def require_space(directory: Path, needed_bytes: int, what: str) -> None:
    """Refuse early where the disk cannot hold what is about to be written."""
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise InsufficientStorage(f"{what} needs {needed_bytes:,} bytes, the disk has {free:,} left")


def _open_directory(directory: Path, roots: Sequence[Path] | None) -> Source:
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise ModelNotFound(
            f"{directory.name} has no config.json; a model is a Hugging Face directory or one GGUF file"
        )
    check_folder(directory, roots)
    files = weight_files(directory)
    tensors = sum(len(check_safetensors(file).keys() - {"__metadata__"}) for file in files)
    refuse_endless_layers(read_json(config_file), tensors)
    digest = hashlib.sha256()
    for file in [config_file, *files]:
        digest.update(f"{file.name}\0{sha256_of(file)}\0".encode())
    return Source(directory, "safetensors", digest.hexdigest(), _card_licence(directory / "README.md"))


def _mentions(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_mentions(v, key) for v in value.values())
    return isinstance(value, list) and any(_mentions(v, key) for v in value)


def _read_shards(index: Path) -> dict[str, set[str]]:
    """The names of the tensors in each shard."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UnsafeFormat(f"{index.name} names no shards")
    shards: dict[str, set[str]] = {}
    for tensor, name in places.items():
        if not isinstance(name, str) or not name.isprintable() or Path(name).name != name or name == "..":
            raise UnsafeFormat(f"{index.name} names shards outside the model directory")
        shards.setdefault(name, set()).add(tensor)
    return shards


def _checked_span(path: Path, name: str, entry: Any, limit: int) -> tuple[int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
            dtype in SAFETENSORS_BITS
            and len(shape) <= MAX_DIMENSIONS
            and all(isinstance(n, int) and n >= 0 for n in shape)
            and math.prod(max(n, 1) for n in shape) <= MAX_ELEMENTS
        ):
            bits = math.prod(shape) * SAFETENSORS_BITS[dtype]
            if 0 <= begin <= end <= limit and (end - begin) * 8 == bits:
                return begin, end
    raise UnsafeFormat(f"{path.name}: the header entry of tensor {name[:80]!r} does not fit the file")


def _refuse_pickle(path: Path, start: bytes) -> None:
    if start.startswith(PICKLE_MAGIC):
        raise UnsafeFormat(
            f"{path.name} is a pickle or an archive by its content, whatever its name says; pickles can run code when "
            "they are read. Give a safetensors directory or a GGUF file"
        )


def _open_gguf(path: Path, cache: Path) -> Source:
    require_gguf(path)
    from sglp_core.loading.gguf_conversion import check_gguf, convert_gguf

    licence = check_gguf(path)
    digest = sha256_of(path)
    return Source(convert_gguf(path, cache / f"gguf-{digest}"), "gguf", digest, licence)


def _card_licence(card: Path) -> str | None:
    if not card.is_file():
        return None
    from huggingface_hub import ModelCardData, metadata_load

    try:
        licence = ModelCardData(**(metadata_load(card) or {})).license
    except (ValueError, TypeError):
        return None
    return str(licence) if licence else None

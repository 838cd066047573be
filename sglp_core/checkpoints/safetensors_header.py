"""Model formats on disk: an HF safetensors directory or one GGUF file; everything unsafe is refused before it is read.

Pickles are recognised by content, whatever they are called, and headers are checked against the file before any tensor
is read. No code that comes with a model is ever run.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sglp_core.checkpoints.model_folder import _refuse_pickle
from sglp_core.checkpoints.strict_json import read_json, unique_keys
from sglp_core.errors import ModelNotFound, UnsafeFormat

# https://github.com/huggingface/safetensors#format
SAFETENSORS_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 32
# Beyond it no tensor can be made, not even an empty one, whose strides are products of its sides.
MAX_ELEMENTS = 2**63 - 1


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

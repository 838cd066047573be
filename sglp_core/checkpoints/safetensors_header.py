"""Check the headers of a model's safetensors files against the files themselves, before any tensor is read.

Pickles are recognised by their content, whatever their names.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sglp_core.checkpoints.model_folder import refuse_pickle
from sglp_core.checkpoints.strict_json import JsonObject, read_json, unique_keys
from sglp_core.errors import ModelNotFound, UnsafeFormat

# https://github.com/huggingface/safetensors#format
SAFETENSORS_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4,
}  # fmt: skip
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 32
# PyTorch cannot make a larger tensor, not even an empty one: its strides are products of its sides.
MAX_ELEMENTS = 2**63 - 1


def check_safetensors(path: Path) -> JsonObject:
    """Read and check a safetensors header: length, types, bounds, no overlap, no gap. Returns the header.

    The header is then opened with the safetensors library as well, whose checks are stricter, except that it accepts
    duplicate keys. Raises `UnsafeFormat`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        (length,) = struct.unpack("<Q", start.ljust(8, b"\xff"))
        fits = length <= min(MAX_HEADER_BYTES, size - 8)
        text = file.read(length) if fits else b""
        # The length of a valid header may begin with the same two bytes as a pickle.
        if not text.startswith(b"{"):
            refuse_pickle(path, start)
        if len(start) < 8:
            raise UnsafeFormat(f"{path.name} is too short to be a safetensors file")
        if not fits:
            raise UnsafeFormat(f"{path.name}: the header claims {length} bytes, the file has {size}")
    try:
        # Decoded first: from bytes, Python would guess an encoding, and the format allows only UTF-8.
        header: JsonObject = json.loads(text.decode(), object_pairs_hook=unique_keys)
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
        raise UnsafeFormat(f"{path.name}: the safetensors library cannot read the header: {error}") from error
    return header


def weight_files(directory: Path) -> list[Path]:
    """The safetensors shards of a model directory, in name order.

    Raises `ModelNotFound` where a shard or all weights are missing, and `UnsafeFormat` for pickle weights or an index
    that does not match its shards.
    """
    index = directory / INDEX
    if index.is_file():
        shards = read_shards(index)
        missing = [n for n in shards if not (directory / n).is_file()]
        if missing:
            raise ModelNotFound(f"{index.name} names shards that are not there: {', '.join(missing)}")
        for name, tensors in shards.items():
            absent = tensors - check_safetensors(directory / name).keys()
            if absent:
                raise UnsafeFormat(f"{index.name} names tensors that {name} does not hold: {sorted(absent)[:5]}")
        return [directory / n for n in sorted(shards)]
    single = directory / WEIGHTS
    if single.is_file():
        return [single]
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
    if pickles:
        raise UnsafeFormat(
            f"the model has only pickle weights ({', '.join(pickles)}), which can run code when they are read; "
            "save it again with model.save_pretrained(…), which writes safetensors"
        )
    raise ModelNotFound(f"the model directory holds neither {WEIGHTS} nor {INDEX}")


def read_shards(index: Path) -> dict[str, set[str]]:
    """The names of the tensors in each shard that an index names. Raises `UnsafeFormat`."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnsafeFormat(f"{index.name} names no shards")
    shards: dict[str, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name.isprintable() or Path(name).name != name or name == "..":
            raise UnsafeFormat(f"{index.name} names shards outside the model directory")
        shards.setdefault(name, set()).add(tensor)
    return shards


def _checked_span(path: Path, name: str, entry: Any, limit: int) -> tuple[int, int]:
    """First byte and end of one tensor, from 0 to `limit`, the bytes of all tensors in the file."""
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

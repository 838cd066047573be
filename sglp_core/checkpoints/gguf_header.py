"""Check the header of a GGUF file against the size of the file, before the gguf library reads it.

The library trusts the header, for example the number of elements of an array, even where the file is shorter.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from sglp_core.checkpoints.model_folder import refuse_part
from sglp_core.errors import UnsafeFormat

# Bytes of a value, by the number of its type; the two types of variable size are below.
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, UINT32 = 8, 9, 4
UNSIGNED = {2: "H", UINT32: "I", 10: "Q"}
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_STRING_BYTES = 16_000_000
# Four times what the largest vocabularies need with their merges; the library makes an object of each element.
MAX_ELEMENTS = 4_000_000
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class GGUFTensor:
    """`begin` in bytes from the start of the file; `elements` is the number of weights, quantised or not."""

    name: str
    elements: int
    begin: int
    size_bytes: int


@dataclass(frozen=True)
class _TensorInfo:
    """What a header says of one tensor; `offset` in bytes from the start of the tensor data."""

    name: str
    elements: int
    offset: int
    size_bytes: int


@dataclass
class _Cursor:
    """A position in a file that moves forward and never beyond the file's end."""

    path: Path
    file: BinaryIO
    size: int
    position: int = 0
    elements: int = 0
    blocks: int = 0
    parts: int = 1
    alignment: int = DEFAULT_ALIGNMENT
    names: set[str] = field(default_factory=set)

    def error(self, reason: str) -> UnsafeFormat:
        return UnsafeFormat(f"{self.path.name} is not a valid GGUF file: {reason} (at byte {self.position})")

    def read(self, count: int) -> bytes:
        self._advance(count)
        return self.file.read(count)

    def skip(self, count: int) -> None:
        self._advance(count)
        self.file.seek(self.position)

    def unpack(self, struct_format: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{struct_format}", self.read(struct.calcsize(f"<{struct_format}")))

    def string(self) -> str:
        (length,) = self.unpack("Q")
        if length > MAX_STRING_BYTES:
            raise self.error(f"a string of {length} bytes, more than {MAX_STRING_BYTES:,}")
        try:
            return self.read(length).decode()
        except UnicodeDecodeError as error:
            raise self.error("a string is not UTF-8") from error

    def count(self, elements: int) -> None:
        """Add to the number of elements that the library would make objects of, and refuse too many."""
        self.elements += elements
        if self.elements > MAX_ELEMENTS:
            raise self.error(f"the header has more than {MAX_ELEMENTS:,} values")

    def _advance(self, count: int) -> None:
        if count > self.size - self.position:
            raise self.error("it is truncated, or its header claims more than the file holds")
        self.position += count


def read_tensors(path: Path) -> list[GGUFTensor]:
    """Check a header and return the tensors it describes, in the order of their bytes.

    Raises `UnsafeFormat`, and `ModelNotFound` for a part of a split model.
    """
    with path.open("rb") as file:
        cursor = _Cursor(path, file, path.stat().st_size)
        magic, version = cursor.read(4), cursor.unpack("I")[0]
        if magic != b"GGUF" or version not in VERSIONS:
            raise cursor.error(f"its version is {version}; supported are {VERSIONS}")
        tensors, values = cursor.unpack("QQ")
        cursor.count(tensors + values)
        for _ in range(values):
            _check_value(cursor)
        refuse_part(path, cursor.parts)
        if cursor.blocks > tensors:
            raise cursor.error(f"it claims {cursor.blocks} layers but has only {tensors} tensors")
        # Tensors may have the names of values.
        cursor.names.clear()
        infos = [_read_info(cursor) for _ in range(tensors)]
        start = -(-cursor.position // cursor.alignment) * cursor.alignment
        return _placed(cursor, infos, start)


def _check_value(cursor: _Cursor) -> None:
    """Move over one key and its value."""
    key = _unused_name(cursor)
    (value_type,) = cursor.unpack("I")
    if key == "general.alignment":
        if value_type != UINT32:
            raise cursor.error("its alignment is not a 32-bit number")
        (cursor.alignment,) = cursor.unpack("I")
        if cursor.alignment == 0 or cursor.alignment & (cursor.alignment - 1):
            raise cursor.error(f"its alignment of {cursor.alignment} is not a power of two")
        return
    if key.endswith(".block_count") and value_type in UNSIGNED:
        (blocks,) = cursor.unpack(UNSIGNED[value_type])
        cursor.blocks = max(cursor.blocks, blocks)
        return
    if key == "split.count" and value_type in UNSIGNED:
        (cursor.parts,) = cursor.unpack(UNSIGNED[value_type])
        return
    count = 1
    if value_type == ARRAY:
        value_type, count = cursor.unpack("IQ")
        cursor.count(count)
    if value_type == STRING:
        for _ in range(count):
            cursor.string()
    elif value_type in VALUE_BYTES:
        cursor.skip(count * VALUE_BYTES[value_type])
    else:
        raise cursor.error("arrays in an array" if value_type == ARRAY else f"a value of the unknown type {value_type}")


def _read_info(cursor: _Cursor) -> _TensorInfo:
    name = _unused_name(cursor)
    (dimensions,) = cursor.unpack("I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"tensor {name[:80]!r} has {dimensions} dimensions; allowed are 1 to {MAX_DIMENSIONS}")
    shape = cursor.unpack(f"{dimensions}Q")
    tensor_type, offset = cursor.unpack("IQ")
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor_type)]
    except (ValueError, KeyError) as error:
        raise cursor.error(f"tensor {name[:80]!r} has the unknown type {tensor_type}") from error
    elements = math.prod(shape)
    if elements == 0 or shape[0] % block:
        raise cursor.error(f"tensor {name[:80]!r} has the shape {shape}, which blocks of {block} do not fill")
    return _TensorInfo(name, elements, offset, elements // block * block_bytes)


def _unused_name(cursor: _Cursor) -> str:
    name = cursor.string()
    if name in cursor.names:
        raise cursor.error(f"{name[:80]!r} appears twice")
    cursor.names.add(name)
    return name


def _placed(cursor: _Cursor, infos: list[_TensorInfo], start: int) -> list[GGUFTensor]:
    """The tensors at their places in the file, whose tensor data begins at byte `start`."""
    tensors, end = [], 0
    for info in sorted(infos, key=lambda info: info.offset):
        if info.offset < end or info.offset % cursor.alignment:
            raise cursor.error(f"tensor {info.name[:80]!r} overlaps another one, or is not aligned")
        end = info.offset + info.size_bytes
        if start + end > cursor.size:
            raise cursor.error(
                f"truncated: tensor {info.name[:80]!r} ends at byte {start + end}, the file at {cursor.size}"
            )
        tensors.append(GGUFTensor(info.name, info.elements, start + info.offset, info.size_bytes))
    if not tensors:
        raise cursor.error("it holds no tensors")
    return tensors

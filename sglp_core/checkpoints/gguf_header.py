"""The header of a GGUF file, walked once with every claim held against the bytes that are there.

The gguf library believes what a header says: how many elements an array has, say, whether or not the file goes on that
far. So a header comes here first. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from sglp_core.errors import UnsafeFormat

# Bytes of a value, by the number of its type; the other two are a string and an array.
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, UINT32 = 8, 9, 4
UNSIGNED = {UINT32: "I", 10: "Q"}
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_STRING_BYTES = 16_000_000
# The largest vocabularies with their merges have a quarter of it; the library makes an object of each.
MAX_ELEMENTS = 4_000_000
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class GGUFTensor:
    """`begin` in bytes from the start of the file; `elements` are weights, however few bits each has."""

    name: str
    elements: int
    begin: int
    size_bytes: int


@dataclass
class _Cursor:
    """Reads on in a file and never beyond its end."""

    path: Path
    file: BinaryIO
    size: int
    place: int = 0
    elements: int = 0
    tensors: int = 0
    alignment: int = DEFAULT_ALIGNMENT
    names: set[str] = field(default_factory=set)

    def refuse(self, why: str) -> UnsafeFormat:
        return UnsafeFormat(f"{self.path.name} is not a sound GGUF file: {why} (at byte {self.place})")

    def take(self, count: int) -> bytes:
        if count > self.size - self.place:
            raise self.refuse("it is truncated, or its header claims more than the file holds")
        self.place += count
        return self.file.read(count)

    def skip(self, count: int) -> None:
        if count > self.size - self.place:
            raise self.refuse("it is truncated, or its header claims more than the file holds")
        self.place += count
        self.file.seek(self.place)

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def text(self) -> str:
        (length,) = self.numbers("Q")
        if length > MAX_STRING_BYTES:
            raise self.refuse(f"a text of {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.refuse("a text that is not UTF-8") from error

    def count(self, elements: int) -> None:
        self.elements += elements
        if self.elements > MAX_ELEMENTS:
            raise self.refuse(f"more than {MAX_ELEMENTS:,} values")


def read_tensors(path: Path) -> list[GGUFTensor]:
    """Check a header and return what it says of the tensors; raises `UnsafeFormat`."""
    with path.open("rb") as file:
        cursor = _Cursor(path, file, path.stat().st_size)
        magic, version = cursor.take(4), cursor.numbers("I")[0]
        if magic != b"GGUF" or version not in VERSIONS:
            raise cursor.refuse(f"its version is {version}, known are {VERSIONS}")
        tensors, values = cursor.numbers("QQ")
        cursor.count(tensors + values)
        cursor.tensors = tensors
        for _ in range(values):
            _read_value(cursor)
        cursor.names.clear()
        infos = [_read_info(cursor) for _ in range(tensors)]
        start = -(-cursor.place // cursor.alignment) * cursor.alignment
        return _placed(cursor, infos, start)


def _read_value(cursor: _Cursor) -> None:
    key = _new_name(cursor)
    (kind,) = cursor.numbers("I")
    if key == "general.alignment":
        if kind != UINT32:
            raise cursor.refuse("its alignment is not a number")
        (cursor.alignment,) = cursor.numbers("I")
        if cursor.alignment == 0 or cursor.alignment & (cursor.alignment - 1):
            raise cursor.refuse(f"an alignment of {cursor.alignment}")
        return
    if key.endswith(".block_count") and kind in UNSIGNED:
        (blocks,) = cursor.numbers(UNSIGNED[kind])
        if blocks > cursor.tensors:
            raise cursor.refuse(f"{blocks} layers in {cursor.tensors} tensors")
        return
    count = 1
    if kind == ARRAY:
        kind, count = cursor.numbers("IQ")
        cursor.count(count)
    if kind == STRING:
        for _ in range(count):
            cursor.text()
    elif kind in VALUE_BYTES:
        cursor.skip(count * VALUE_BYTES[kind])
    else:
        raise cursor.refuse("arrays in an array" if kind == ARRAY else f"a value of the unknown type {kind}")


def _read_info(cursor: _Cursor) -> tuple[str, int, int, int]:
    """Name, elements, offset and bytes of one tensor."""
    name = _new_name(cursor)
    (dimensions,) = cursor.numbers("I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.refuse(f"a tensor of {dimensions} dimensions")
    sides = cursor.numbers(f"{dimensions}Q")
    kind, offset = cursor.numbers("IQ")
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise cursor.refuse(f"a tensor of the unknown type {kind}") from error
    elements = math.prod(sides)
    if elements == 0 or sides[0] % block:
        raise cursor.refuse(f"a tensor of the sides {sides}, in blocks of {block}")
    return name, elements, offset, elements // block * block_bytes


def _new_name(cursor: _Cursor) -> str:
    name = cursor.text()
    if name in cursor.names:
        raise cursor.refuse(f"{name[:80]!r} appears twice")
    cursor.names.add(name)
    return name


def _placed(cursor: _Cursor, infos: list[tuple[str, int, int, int]], start: int) -> list[GGUFTensor]:
    placed, end = [], 0
    for name, elements, offset, size_bytes in sorted(infos, key=lambda info: info[2]):
        if offset < end or offset % cursor.alignment:
            raise cursor.refuse(f"tensor {name[:80]!r} overlaps another one, or is not aligned")
        end = offset + size_bytes
        if start + end > cursor.size:
            raise cursor.refuse(
                f"truncated: tensor {name[:80]!r} ends at byte {start + end}, the file at {cursor.size}"
            )
        placed.append(GGUFTensor(name, elements, start + offset, size_bytes))
    if not placed:
        raise cursor.refuse("it holds no tensors")
    return placed

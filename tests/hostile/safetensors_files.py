"""Weight files that lie: each case makes the bytes of one from the header and the tensors of a sound file."""

import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

Header = dict[str, Any]


def with_header(text: bytes, tensors: bytes, length: int | None = None) -> bytes:
    """A file with this header, of which it may say another length."""
    return struct.pack("<Q", len(text) if length is None else length) + text + tensors


def parts(content: bytes) -> tuple[Header, bytes]:
    """Header and tensors of a sound file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _first(change: Callable[[Header], object]) -> Callable[[Header, bytes], bytes]:
    """Something else in the entry of the first tensor."""

    def build(header: Header, tensors: bytes) -> bytes:
        change(next(entry for name, entry in header.items() if name != "__metadata__"))
        return with_header(json.dumps(header).encode(), tensors)

    return build


def _entries(**entries: Header) -> Callable[[Header, bytes], bytes]:
    return lambda _header, _tensors: with_header(json.dumps(entries).encode(), bytes(16))


def _text(change: Callable[[str], bytes]) -> Callable[[Header, bytes], bytes]:
    return lambda header, tensors: with_header(change(json.dumps(header)), tensors)


def _named(name: str, value: str) -> Callable[[str], bytes]:
    """One more member at the front, as text: what `json.dumps` would not write."""
    return lambda text: f'{{"{name}": {value}, {text[1:]}'.encode()


def _entry(shape: object, begin: object, end: object, dtype: object = "F32") -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS: dict[str, Callable[[Header, bytes], bytes]] = {
    "empty file": lambda _header, _tensors: b"",
    "seven bytes": lambda _header, _tensors: bytes(7),
    "nothing but a length": lambda _header, _tensors: bytes(8),
    "length of 2**63": lambda header, tensors: with_header(json.dumps(header).encode(), tensors, 2**63),
    "length of 2**64 - 1": lambda header, tensors: with_header(json.dumps(header).encode(), tensors, 2**64 - 1),
    "length one too long": lambda _header, _tensors: with_header(b"{}", b"", 3),
    "pickle": lambda _header, _tensors: pickle.dumps({"weight": [1.0]}),
    "pickle of protocol 0": lambda _header, _tensors: pickle.dumps({"weight": [1.0]}, protocol=0),
    "header is a list": lambda _header, _tensors: with_header(b"[]", b""),
    "header is no JSON": lambda _header, _tensors: with_header(b"{'a': 1}", b""),
    "header after a space": _text(lambda text: b" " + text.encode()),
    "header in UTF-16": _text(lambda text: text.encode("utf-16-le")),
    "header is not UTF-8": _text(lambda text: text.encode().replace(b"weight", b"w\xffight", 1)),
    "half of a surrogate pair in a name": _text(_named("\\ud800", '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}')),
    "nested 100,000 deep": _text(_named("__metadata__", "[" * 100_000 + "]" * 100_000)),
    "number of 5,000 digits": _text(_named("x", '{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,0]}')),
    "number beyond every float": _text(_named("x", '{"dtype":"F32","shape":[1e400],"data_offsets":[0,0]}')),
    "duplicate tensor": lambda header, tensors: with_header(
        (json.dumps(header)[:-1] + ", " + json.dumps(header)[1:]).encode(), tensors
    ),
    "duplicate member": _text(_named("x", '{"dtype":"F32","dtype":"F16","shape":[0],"data_offsets":[0,0]}')),
    "metadata is a list": _text(_named("__metadata__", "[1]")),
    "metadata holds a number": _text(_named("__metadata__", '{"format": 1}')),
    "tensor is a number": _text(_named("x", "1")),
    "tensor is null": _text(_named("x", "null")),
    "no shape": _first(lambda entry: entry.pop("shape")),
    "unknown dtype": _first(lambda entry: entry.update(dtype="F31")),
    "dtype is a number": _first(lambda entry: entry.update(dtype=32)),
    "shape of other bytes": _first(lambda entry: entry["shape"].append(2)),
    "shape of true": _first(lambda entry: entry["shape"].append(True)),
    "shape of floats": _first(lambda entry: entry.update(shape=[float(n) for n in entry["shape"]])),
    "negative shape": _first(lambda entry: entry.update(shape=[-n for n in entry["shape"]])),
    "a million dimensions": _entries(x=_entry([2**62] * 1_000_000, 0, 16)),
    "product that comes round to the size": _entries(x=_entry([2**32, 2**32, 4], 0, 16)),
    "nothing, of huge sides": _entries(x=_entry([2**63, 2**63, 0], 0, 0), y=_entry([4], 0, 16)),
    "nothing, of sides too huge for any tensor": _entries(x=_entry([0, 2**64 - 1], 0, 0), y=_entry([4], 0, 16)),
    "offsets of three": _first(lambda entry: entry["data_offsets"].append(0)),
    "offsets of floats": _entries(x=_entry([4], 0.0, 16.0)),
    "offsets of true": _entries(x=_entry([1], False, True, "U8"), y=_entry([15], 1, 16, "U8")),
    "negative offsets": _entries(x=_entry([4], -16, 0)),
    "offsets the wrong way round": _entries(x=_entry([4], 16, 0)),
    "offsets out of bounds": _entries(x=_entry([8], 0, 32)),
    "offsets of 2**63": _entries(x=_entry([4], 2**63, 2**63 + 16)),
    "overlapping": _entries(x=_entry([3], 0, 12), y=_entry([2], 8, 16)),
    "the same bytes twice": _entries(x=_entry([4], 0, 16), y=_entry([4], 0, 16)),
    "gap": _entries(x=_entry([1], 0, 4), y=_entry([1], 12, 16)),
    "bytes nobody owns": _entries(x=_entry([1], 0, 4)),
    "half a byte": _entries(x=_entry([3], 0, 1, "F4"), y=_entry([15], 1, 16, "U8")),
}  # fmt: skip

"""Any bytes at all: refused with our own error, or a file whose tensors the safetensors library reads as we do."""

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from sglp_core.checkpoints.safetensors_header import SAFETENSORS_BITS
from sglp_core.checkpoints.stored_tensors import stored_tensors
from sglp_core.checkpoints.tensor_values import TORCH_TYPES
from sglp_core.errors import UnsafeFormat
from tests.hostile.bounded import bounded
from tests.hostile.safetensors_files import parts, with_header

SOUND = save({"a": torch.arange(6.0).view(2, 3), "b": torch.arange(5, dtype=torch.int8)}, {"format": "pt"})
SIZES = st.integers(-1, 70) | st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 10**400])
VALUES = SIZES | st.booleans() | st.none() | st.floats() | st.text(max_size=3)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*SAFETENSORS_BITS, "F31"]) | VALUES,
        "shape": st.lists(SIZES, max_size=4) | VALUES,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | VALUES,
        "more": VALUES,
    },
)
# Entries that lie one behind the other often, so that many files are nearly sound.
FITTING = st.lists(
    st.tuples(st.sampled_from([*SAFETENSORS_BITS]), st.lists(st.integers(0, 4), max_size=4)), min_size=1, max_size=4
)


def check(content: bytes) -> list[Any] | None:
    """What we know of the tensors of such a file; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(content)
        with bounded(memory_bytes=1 << 28):
            try:
                found = stored_tensors(Path(folder))
            except UnsafeFormat:
                return None
        with safe_open(file, "pt") as library:
            assert set(library.keys()) == {tensor.name for tensor in found}
            for tensor in found:
                view = library.get_slice(tensor.name)
                assert (tuple(view.get_shape()), view.get_dtype()) == (tensor.shape, tensor.dtype)
                assert 0 <= tensor.begin <= tensor.begin + tensor.size_bytes <= len(content)
                if tensor.dtype in TORCH_TYPES:
                    theirs = library.get_tensor(tensor.name).contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                    assert theirs == content[tensor.begin : tensor.begin + tensor.size_bytes]
        return found


@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes(content: bytes) -> None:
    check(content)


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_any_header(text: bytes, tensors: bytes) -> None:
    check(with_header(b"{" + text, tensors))


@given(st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRY | VALUES, max_size=4), st.integers(0, 40))
def test_any_entries(header: dict[str, Any], size: int) -> None:
    check(with_header(json.dumps(header).encode(), bytes(size)))


@given(FITTING, SIZES, st.integers(0, 3))
@settings(max_examples=200)
def test_entries_that_nearly_fit(entries: list[tuple[str, list[int]]], odd: int, where: int) -> None:
    header: dict[str, Any] = {}
    end = 0
    for number, (dtype, shape) in enumerate(entries):
        size = SAFETENSORS_BITS[dtype] * torch.Size(shape).numel() // 8
        header[str(number)] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    sound = check(with_header(json.dumps(header).encode(), bytes(end)))
    halves = any(dtype == "F4" for dtype, _ in entries)
    assert sound is not None or halves
    if where < 2:
        header["0"]["data_offsets"][where] = odd
    else:
        header["0"]["shape"] = [*header["0"]["shape"], odd] if where == 2 else [odd]
    check(with_header(json.dumps(header).encode(), bytes(end)))


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_sound_file_with_some_bytes_changed(changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND)
    for place, value in changes:
        content[place] = value
    check(bytes(content))


@given(st.integers(0, len(SOUND)), st.binary(max_size=9))
def test_a_sound_file_cut_off_or_continued(kept: int, more: bytes) -> None:
    found = check(SOUND[:kept] + more)
    assert found is None or SOUND[:kept] + more == SOUND or len(SOUND[:kept] + more) == len(SOUND)


@given(st.integers(0, 2**64 - 1))
def test_any_claim_of_a_length(length: int) -> None:
    header, tensors = parts(SOUND)
    text = json.dumps(header).encode()
    assert (check(with_header(text, tensors, length)) is None) == (length != len(text))


def test_the_sound_file_is_read() -> None:
    found = check(SOUND)
    assert found is not None
    assert {tensor.name: tensor.size_bytes for tensor in found} == {"a": 24, "b": 5}
    assert struct.unpack("<Q", SOUND[:8])[0] % 8 == 0

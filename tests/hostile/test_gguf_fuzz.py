"""Any GGUF header at all: refused with our own error, or a file whose tensors the gguf library finds where we do."""

import tempfile
from pathlib import Path

from gguf import GGUFReader
from hypothesis import example, given
from hypothesis import strategies as st

from sglp_core.checkpoints.gguf_header import GGUFTensor, read_tensors
from sglp_core.errors import UnsafeFormat
from sglp_core.loading.gguf_conversion import check_gguf
from tests.hostile.bounded import bounded
from tests.hostile.gguf_files import GGUF, MAGIC, SOUND, array, file, tensor, text, value

NUMBERS = st.integers(0, 70) | st.sampled_from([2**16, 2**31, 2**32 - 1])
LONG = NUMBERS | st.sampled_from([2**32, 2**60, 2**63, 2**64 - 1])
CONTENT = st.binary(max_size=20)
VALUES = st.builds(value, st.text(max_size=3) | st.just("general.alignment"), st.integers(0, 13), CONTENT) | st.builds(
    lambda key, kind, count, content: value(key, 9, array(kind, count, content)),
    st.text(max_size=3), st.integers(0, 13), LONG, CONTENT,
)  # fmt: skip
TENSORS = st.builds(
    tensor, st.text(max_size=2), st.lists(LONG, max_size=5), st.integers(0, 40), st.sampled_from([0, 32, 64]) | LONG
)


def check(content: bytes) -> list[GGUFTensor] | None:
    """What we know of the tensors of such a file; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(content)
        with bounded(memory_bytes=1 << 28):
            try:
                check_gguf(path)
            except UnsafeFormat:
                return None
        found = read_tensors(path)
        theirs = {(each.name, each.n_elements, each.data_offset, each.n_bytes) for each in GGUFReader(path).tensors}
        assert {(each.name, each.elements, each.begin, each.size_bytes) for each in found} == theirs
        assert all(0 < each.begin < each.begin + each.size_bytes <= len(content) for each in found)
        return found


@given(st.binary(max_size=100))
def test_any_bytes(content: bytes) -> None:
    check(MAGIC + content)


@given(st.lists(VALUES, max_size=3), st.lists(TENSORS, max_size=3), st.binary(max_size=200))
def test_any_values_and_tensors(values: list[bytes], tensors: list[bytes], content: bytes) -> None:
    check(file(values, tensors, content))


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example([(8, 255)])
def test_a_sound_file_with_some_bytes_changed(changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND)
    for place, changed in changes:
        content[place] = changed
    check(bytes(content))


@given(st.integers(0, len(SOUND) - 1))
def test_a_sound_file_cut_off(kept: int) -> None:
    assert check(SOUND[:kept]) is None


@given(st.sampled_from(sorted(GGUF)), st.integers(0, 400), CONTENT)
def test_the_corpus_with_bytes_put_in(name: str, place: int, content: bytes) -> None:
    check(GGUF[name][:place] + content + GGUF[name][place:])


def test_the_sound_file_is_read() -> None:
    found = check(SOUND)
    assert found is not None
    assert [(each.name, each.elements, each.size_bytes) for each in found] == [("t", 8, 32), ("u", 8, 32)]
    assert SOUND.startswith(MAGIC)
    assert text("t") in SOUND

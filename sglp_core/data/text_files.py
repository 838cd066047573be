"""Read the documents of a user's text file in small pieces; of a large file, only a random sample."""

import heapq
import json
import random
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglp_core.data.parquet import batches_of_rows, open_parquet
from sglp_core.errors import BadCalibration

PIECE_CHARACTERS = 1 << 20
MAX_RECORD_CHARACTERS = 1 << 26
# The random numbers of Python's generator are multiples of this part of 1.
KEYS = 1 << 53
MOST_DOCUMENTS = 1 << 40
TEXT_FIELDS = ("text", "content")


@dataclass(frozen=True)
class DrawnTexts:
    """The documents of a file with these numbers, in the order of the file, each cut at `most` characters.

    The file is read again each time that they are gone through, which raises `BadCalibration` as `draw_texts` does.
    """

    path: Path
    numbers: Sequence[int]
    most: int

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        numbers = iter(self.numbers)
        number = next(numbers, None)
        with _readable(self.path):
            for each, text in enumerate(_documents(self.path)):
                if each == number:
                    yield text[: self.most]
                    number = next(numbers, None)
        if number is not None:
            raise BadCalibration(f"{self.path.name} was changed while it was read")


def draw_texts(path: Path, most: int, seed: int) -> DrawnTexts:
    """The non-blank documents of a `.txt`, `.jsonl` or `.parquet` file, in the order of the file.

    Where they have more than `most` characters in all, a random sample with the seed that has no more; a single
    document that is longer is cut. Memory holds one record, and some 50 bytes for each document. Raises
    `BadCalibration`.
    """
    if not path.is_file():
        raise BadCalibration(f"{path.name} is not a file")
    generator = random.Random(seed)
    lengths = array("q")
    # Each document gets a random key, and those with the smallest keys are kept; the largest key is on top of the heap.
    # Key and number are one integer, which takes a third of the memory of a tuple.
    kept: list[int] = []
    held = 0
    with _readable(path):
        for number, text in enumerate(_documents(path)):
            lengths.append(len(text))
            if not text.strip():
                continue
            key = int(generator.random() * KEYS)
            heapq.heappush(kept, -key * MOST_DOCUMENTS + number)
            held += len(text)
            while held > most and len(kept) > 1:
                held -= lengths[heapq.heappop(kept) % MOST_DOCUMENTS]
    return DrawnTexts(path, array("q", sorted(each % MOST_DOCUMENTS for each in kept)), most)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, NotImplementedError, RecursionError) as error:
        raise BadCalibration(f"{path.name} cannot be read as {path.suffix}: {error}") from error


def _documents(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        return _separated_by_blank_lines(path)
    if path.suffix == ".jsonl":
        return _of_lines(path)
    if path.suffix == ".parquet":
        return _of_rows(path)
    raise BadCalibration(f"{path.name}: calibration text is a .txt, .jsonl or .parquet file")


def _separated_by_blank_lines(path: Path) -> Iterator[str]:
    rest = ""
    with path.open(encoding="utf-8") as file:
        while piece := file.read(PIECE_CHARACTERS):
            *whole, rest = (rest + piece).split("\n\n")
            yield from whole
            if len(rest) > PIECE_CHARACTERS:
                # A very long paragraph is split. Its last character may be the first line break of a blank line.
                yield rest[:-1]
                rest = rest[-1:]
    yield rest


def _of_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        while line := file.readline(MAX_RECORD_CHARACTERS + 1):
            if len(line) > MAX_RECORD_CHARACTERS:
                raise ValueError(f"a line is longer than {MAX_RECORD_CHARACTERS:,} characters")
            if line.strip():
                text = _text_of(json.loads(line))
                # Raises for half of a surrogate pair, which JSON can contain but tokenizers cannot encode.
                text.encode()
                yield text


def _of_rows(path: Path) -> Iterator[str]:
    import pyarrow as pa

    with open_parquet(path) as file:
        schema = file.schema_arrow
        strings = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        column = next((name for name in (*TEXT_FIELDS, *strings) if name in strings), None)
        if column is None:
            raise ValueError("no column holds text")
        for batch in batches_of_rows(file, [column]):
            yield from (text or "" for text in batch.column(0).to_pylist())


def _text_of(record: Any) -> str:
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        for key in (*TEXT_FIELDS, *record):
            if isinstance(record.get(key), str):
                return str(record[key])
    raise ValueError("a record has no text field")

"""Read the documents of a user's text file in small pieces; of a large file, only a random sample is kept."""

import heapq
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sglp_core.data.parquet import batches_of_rows
from sglp_core.errors import BadCalibration

PIECE_CHARACTERS = 1 << 20
MAX_RECORD_CHARACTERS = 1 << 26
TEXT_FIELDS = ("text", "content")


def draw_texts(path: Path, most: int, seed: int) -> list[str]:
    """The non-blank documents of a `.txt`, `.jsonl` or `.parquet` file, in the order of the file.

    Where they have more than `most` characters in all, a random sample with the seed that has no more; a single
    document that is longer is cut. Memory is bounded by `most` and one record. Raises `BadCalibration`.
    """
    if not path.is_file():
        raise BadCalibration(f"{path.name} is not a file")
    generator = random.Random(seed)
    # Each document gets a random key, and those with the smallest keys are kept; the largest key is on top of the heap.
    kept: list[tuple[float, int, str]] = []
    held = 0
    try:
        for number, text in enumerate(_documents(path)):
            if not text.strip():
                continue
            heapq.heappush(kept, (-generator.random(), number, text))
            held += len(text)
            while held > most and len(kept) > 1:
                held -= len(heapq.heappop(kept)[2])
    except (OSError, ValueError, NotImplementedError, RecursionError) as error:
        raise BadCalibration(f"{path.name} cannot be read as {path.suffix}: {error}") from error
    return [text[:most] for _, _, text in sorted(kept, key=lambda document: document[1])]


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
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
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

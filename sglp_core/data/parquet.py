"""Read a Parquet file a few rows at a time, by the uncompressed sizes in its metadata, so that memory stays bounded."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MAX_BYTES_AT_ONCE = 1 << 26
MAX_ROWS_AT_ONCE = 64
READ_AT_ONCE = 1 << 20


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile` that holds a few pages of a column; by default, it holds all of a row group's."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, buffer_size=READ_AT_ONCE, pre_buffer=False)


def batches_of_rows(file: Any, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches of these columns of a `pyarrow.parquet.ParquetFile`, in the order of the file.

    A batch has at most 64 rows, and at most 64 MB by the uncompressed size that its row group states. Raises
    `ValueError` where a single row is larger.
    """
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        leaves = [group.column(index) for index in range(group.num_columns)]
        claimed = sum(
            leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema.split(".", 1)[0] in columns
        )
        rows = max(1, group.num_rows)
        if claimed > MAX_BYTES_AT_ONCE * rows:
            raise ValueError(f"{rows:,} rows claim to hold {claimed:,} bytes, more than can be read at once")
        at_once = min(MAX_ROWS_AT_ONCE, MAX_BYTES_AT_ONCE * rows // max(1, claimed))
        yield from file.iter_batches(at_once, row_groups=[number], columns=list(columns))

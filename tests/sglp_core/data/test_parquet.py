"""Of a Parquet file, memory holds a batch of rows and a few pages, however large a row group is."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS, ROW_BYTES = 400, 200_000
PROGRAM = """
import sys
from pathlib import Path
import pyarrow as pa
from sglp_core.data.image_files import read_image_files
sizes = [len(image.content) for _, image in read_image_files(Path(sys.argv[1]), 1000, 0).read()]
print(len(sizes), sum(sizes), pa.default_memory_pool().max_memory())
"""


def test_memory_does_not_hold_a_row_group(tmp_path: Path) -> None:
    table = pa.table({"image": [os.urandom(ROW_BYTES) for _ in range(ROWS)]})
    pq.write_table(table, tmp_path / "images.parquet", use_dictionary=False, write_batch_size=1)
    assert pq.ParquetFile(tmp_path / "images.parquet").num_row_groups == 1
    command = [sys.executable, "-c", PROGRAM, tmp_path / "images.parquet"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, size, most = map(int, printed.split())
    assert (count, size) == (ROWS, ROWS * ROW_BYTES)
    # A batch has 64 rows. The one before it and room to grow come on top.
    assert most < 4 * 64 * ROW_BYTES

"""Calibration data that lies or never ends: each case writes one, and says how it is refused."""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Case = tuple[Callable[[Path], Path], str]
GIGABYTE = 1 << 30
BOMB_BYTES = 1 << 28


def _text(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _endless_line(folder: Path) -> Path:
    file = folder / "line.jsonl"
    file.touch()
    # Sparse: a gigabyte of zeros in one line that takes no disk.
    os.truncate(file, GIGABYTE)
    return file


def _pipe(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def _folder(folder: Path) -> Path:
    (folder / "folder.txt").mkdir()
    return folder / "folder.txt"


def _parquet(**columns: list[object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "data.parquet")
        return folder / "data.parquet"

    return write


def _parquet_bomb(column: str, kind: pa.DataType) -> Callable[[Path], Path]:
    """Many megabytes in a few kilobytes: one row of zeros, compressed."""

    def write(folder: Path) -> Path:
        value = pa.py_buffer(bytes(BOMB_BYTES))
        offsets = pa.py_buffer(struct.pack("<qq", 0, BOMB_BYTES))
        array = pa.Array.from_buffers(kind, 1, [None, offsets, value])
        table = pa.table({column: array})
        pq.write_table(table, folder / "bomb.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
        return folder / "bomb.parquet"

    return write


def _cut_parquet(folder: Path) -> Path:
    path = _parquet(text=["a b c d"] * 1000)(folder)
    path.write_bytes(path.read_bytes()[:-20] + b"PAR1")
    return path


TEXTS: dict[str, Case] = {
    "pipe": (_pipe("pipe.txt"), "not a file"),
    "pipe named jsonl": (_pipe("pipe.jsonl"), "not a file"),
    "pipe named parquet": (_pipe("pipe.parquet"), "not a file"),
    "folder named txt": (_folder, "not a file"),
    "line without end": (_endless_line, "longer than"),
    "nested too deeply": (_text("deep.jsonl", b"[" * 10**6), "cannot be read"),
    "object nested too deeply": (_text("deep.jsonl", b'{"text":' * 10**5), "cannot be read"),
    "number of a million digits": (_text("digits.jsonl", b'{"text": ' + b"9" * 10**6 + b"}"), "cannot be read"),
    "half a surrogate pair": (_text("half.jsonl", b'{"text": "\\ud800 a b c d e f g h"}'), "surrogates"),
    "text that is a number": (_text("number.jsonl", b'{"text": 1}'), "text field"),
    "list of texts": (_text("list.jsonl", b'["a b c d"]'), "text field"),
    "another encoding": (_text("utf16.txt", "a b c d e".encode("utf-16")), "cannot be read"),
    "compressed": (_text("gzip.txt", b"\x1f\x8b" + zlib.compress(b"a b c " * 999)), "cannot be read"),
    "columns without text": (_parquet(number=[1, 2]), "no column"),
    "no columns": (_parquet(), "no column"),
    "text of nulls": (_parquet(text=pa.array([None, None], pa.string())), "no text"),
    "parquet bomb": (_parquet_bomb("text", pa.large_string()), "more than can be read at once"),
    "cut parquet": (_cut_parquet, "cannot be read"),
}


def _zip(**members: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.png", content)
        return folder / "images.zip"

    return write


def _zip_bomb(folder: Path) -> Path:
    with (
        zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("one.png", "w") as file,
    ):
        for _ in range(256):
            file.write(bytes(1 << 20))
    return folder / "bomb.zip"


def _broken_member(method: int) -> Callable[[Path], Path]:
    """A zip whose member does not unpack: the middle of what is stored is turned round."""

    def write(folder: Path) -> Path:
        path = folder / "broken.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("one.png", os.urandom(500) * 20)
        content = bytearray(path.read_bytes())
        content[60:300] = bytes(255 - byte for byte in content[60:300])
        path.write_bytes(content)
        return path

    return write


def _png(width: int, height: int, rest: bytes = b"") -> bytes:
    """A PNG that claims a size, with no more than that in it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header) - 4) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + rest


def _text_chunk(size: int) -> bytes:
    """A compressed text in a PNG that unpacks to `size` bytes."""
    content = b"zTXtk\0\0" + zlib.compress(bytes(size), 9)
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def _image_folder(**files: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "images").mkdir()
        for name, content in files.items():
            (folder / "images" / f"{name}.png").write_bytes(content)
        return folder / "images"

    return write


def _pipe_among_images(folder: Path) -> Path:
    (folder / "images").mkdir()
    os.mkfifo(folder / "images" / "pipe.png")
    return folder / "images"


def _text_as_image(folder: Path) -> Path:
    (folder / "images").mkdir()
    # Ghostscript would be asked to run it.
    (folder / "images" / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    return folder / "images"


def _huge_gif(folder: Path) -> Path:
    (folder / "images").mkdir()
    Image.new("P", (65_000, 1)).save(folder / "images" / "wide.png", "GIF")
    content = bytearray((folder / "images" / "wide.png").read_bytes())
    content[6:10] = struct.pack("<HH", 65_000, 65_000)
    (folder / "images" / "wide.png").write_bytes(content)
    return folder / "images"


IMAGES: dict[str, Case] = {
    "zip bomb": (_zip_bomb, "larger than"),
    "member that does not inflate": (_broken_member(zipfile.ZIP_DEFLATED), "cannot be read"),
    "member that is no LZMA": (_broken_member(zipfile.ZIP_LZMA), "cannot be read"),
    "member that is no bzip2": (_broken_member(zipfile.ZIP_BZIP2), "cannot be read"),
    "no zip": (_text("images.zip", b"PK\x03\x04" + bytes(100)), "cannot be read"),
    "zip of nothing": (_zip(), "no images"),
    "pipe named zip": (_pipe("pipe.zip"), "not a file"),
    "pipe named parquet": (_pipe("pipe.parquet"), "not a file"),
    "pipe among images": (_pipe_among_images, "no images"),
    "claims 4 · 10⁹ pixels a side": (_image_folder(one=_png(2**32 - 1, 2**32 - 1)), "image"),
    "claims 60,000 pixels a side": (_image_folder(one=_png(60_000, 60_000)), "image"),
    "claims no pixels": (_image_folder(one=_png(0, 0)), "image"),
    "stops after its header": (_image_folder(one=_png(8, 8)), "image"),
    "text in it that unpacks to 512 MB": (_image_folder(one=_png(8, 8, _text_chunk(1 << 29))), "image"),
    "GIF of 65,000 pixels a side": (_huge_gif, "image"),
    "program as an image": (_text_as_image, "image"),
    "parquet bomb": (_parquet_bomb("image", pa.large_binary()), "more than can be read at once"),
    "parquet of texts": (_parquet(image=["a"]), "no image column"),
    "parquet of nulls": (_parquet(image=pa.array([None], pa.binary())), "image"),
    "labels that are lists": (_parquet(image=[b"a"], label=[[1]]), "neither class numbers nor class names"),
}


def write_lines(path: Path, count: int) -> Path:
    """So many texts, one a line of JSON."""
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"text": f"number {number} " * 20}) + "\n")
    return path

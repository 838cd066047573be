"""Read encoded images and their labels from a folder of class folders, a zip of one, or a Parquet file.

Only labels are read at once, images one by one, each up to a fixed size. Nothing is unpacked to disk.
"""

import io
import json
import lzma
import random
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sglp_core.checkpoints.model_folder import within
from sglp_core.data.parquet import READ_AT_ONCE, batches_of_rows, open_parquet
from sglp_core.errors import BadCalibration

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
MAX_IMAGE_BYTES = 64_000_000
MAX_IMAGES = 5_000_000
LABEL_COLUMNS = ("label", "labels", "fine_label")
# The errors that the readers of these formats raise for damaged files.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


Label = str | int | None


@dataclass(frozen=True)
class ImageFile:
    """One encoded image."""

    name: str
    content: bytes


@dataclass(frozen=True)
class ImageFiles:
    """The images that were drawn from a source.

    `labels` are those of the images in the order of the draw: class names, numbers, or None where the source has none.
    `class_names` are all that occur in the source (none where labels are numbers or missing). `read` gives the images
    one by one, each with its place in that order; it raises what `read_image_files` does.
    """

    labels: Sequence[Label]
    class_names: tuple[str, ...]
    read: Callable[[], Iterator[tuple[int, ImageFile]]]


def read_image_files(path: Path, count: int, seed: int, roots: Sequence[Path] | None = None) -> ImageFiles:
    """Up to `count` images of a source, drawn at random with the seed, without replacement.

    In a folder or a zip, the class of an image is the name of its folder; where all images are in one folder, they have
    no labels. Raises `BadCalibration` for an unreadable source, and `SourceForbidden` where a link leaves `roots`.
    """
    with _readable(path):
        if path.is_dir():
            return _from_folder(path, count, seed, roots)
        if not path.is_file():
            raise BadCalibration(f"{path.name} is not a file")
        if path.suffix == ".zip":
            return _from_zip(path, count, seed)
        if path.suffix == ".parquet":
            return _from_parquet(path, count, seed)
    raise BadCalibration(f"{path.name}: images come as a folder of class folders, a .zip of one, or a .parquet file")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise BadCalibration(f"{path.name} cannot be read as images: {error}") from error


def _from_folder(path: Path, count: int, seed: int, roots: Sequence[Path] | None) -> ImageFiles:
    files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    names = [file.relative_to(path).as_posix() for file in files]
    drawn, labels, class_names = _draw_names(path.name, names, count, seed)

    def read() -> Iterator[tuple[int, ImageFile]]:
        with _readable(path):
            for place, name in enumerate(drawn):
                with within(path / name, roots).open("rb") as file:
                    content = _limited(name, file.read)
                yield place, ImageFile(name, content)

    return ImageFiles(labels, class_names, read)


def _from_zip(path: Path, count: int, seed: int) -> ImageFiles:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in SUFFIXES]
    drawn, labels, class_names = _draw_names(path.name, names, count, seed)

    def read() -> Iterator[tuple[int, ImageFile]]:
        with _readable(path), zipfile.ZipFile(path) as archive:
            for place, name in enumerate(drawn):
                with archive.open(name) as file:
                    content = _limited(name, file.read)
                yield place, ImageFile(name, content)

    return ImageFiles(labels, class_names, read)


def _draw_names(
    source: str, names: list[str], count: int, seed: int
) -> tuple[list[str], list[str] | list[None], tuple[str, ...]]:
    """The names that were drawn, their labels, and all class names."""
    if len(names) > MAX_IMAGES:
        raise BadCalibration(f"{source} holds more than {MAX_IMAGES:,} images")
    # Without hidden files, and without the folder of metadata that macOS adds to archives.
    drawn = sorted(name for name in names if not any(p.startswith((".", "__MACOSX")) for p in name.split("/")))
    folders = {PurePosixPath(name).parent.name for name in drawn}
    if len(folders) > 1 and "" in folders:
        raise BadCalibration(f"{source} has images both beside and inside class folders; keep only one of the two")
    random.Random(seed).shuffle(drawn)
    drawn = drawn[:count]
    if len(folders) < 2:
        return drawn, [None] * len(drawn), ()
    class_names = {name: name for name in sorted(folders)}
    # The same string for all images of a class.
    return drawn, [class_names[PurePosixPath(name).parent.name] for name in drawn], tuple(class_names)


def _from_parquet(path: Path, count: int, seed: int) -> ImageFiles:
    import pyarrow as pa

    with open_parquet(path) as file:
        schema = file.schema_arrow
        image = next((f.name for f in schema if _holds_images(f.type)), None)
        if image is None:
            raise BadCalibration(f"{path.name} has no image column: looked for binary, or a struct with `bytes`")
        label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
        if label and not (
            pa.types.is_integer(schema.field(label).type) or pa.types.is_string(schema.field(label).type)
        ):
            raise BadCalibration(f"{path.name}: the column {label} holds neither class numbers nor class names")
        names = _class_names(schema.metadata, label)
        if file.metadata.num_rows > MAX_IMAGES:
            raise BadCalibration(f"{path.name} holds more than {MAX_IMAGES:,} images")
        places = _draw_rows(file.metadata.num_rows, count, seed)
        labels: list[Label] = [None] * int((places >= 0).sum())
        if label:
            for row, value in _column(file, label):
                if places[row] >= 0:
                    stored = value.as_py()
                    labels[places[row]] = (
                        names[stored] if isinstance(stored, int) and 0 <= stored < len(names) else stored
                    )
    if len({each is None for each in labels}) > 1:
        raise BadCalibration(f"{path.name}: some images have a label and some have none")

    def read() -> Iterator[tuple[int, ImageFile]]:
        with _readable(path), open_parquet(path) as file:
            for row, value in _column(file, image):
                if places[row] >= 0:
                    yield int(places[row]), _image_of_row(f"row {row}", value.as_py())

    strings = {each for each in labels if isinstance(each, str)}
    return ImageFiles(labels, names or tuple(sorted(strings)), read)


def _column(file: Any, name: str) -> Iterator[tuple[int, Any]]:
    """The values of a column of a `pyarrow.parquet.ParquetFile`, each with the number of its row."""
    return enumerate(value for rows in batches_of_rows(file, [name]) for value in rows.column(0))


def _draw_rows(rows: int, count: int, seed: int) -> np.ndarray:
    """For each row its place among those that were drawn, or -1."""
    drawn = array("q", range(rows))
    random.Random(seed).shuffle(drawn)
    drawn = drawn[:count]
    places = np.full(rows, -1)
    places[drawn] = np.arange(len(drawn))
    return places


def _image_of_row(name: str, value: Any) -> ImageFile:
    content = value.get("bytes") if isinstance(value, dict) else value
    return ImageFile(name, _limited(name, io.BytesIO(content or b"").read))


def _limited(name: str, read: Callable[[int], bytes]) -> bytes:
    content = bytearray()
    # In pieces: a file allocates all that it is asked for before it reads what there is.
    while piece := read(READ_AT_ONCE):
        content += piece
        if len(content) > MAX_IMAGE_BYTES:
            raise BadCalibration(f"{name} is larger than {MAX_IMAGE_BYTES:,} bytes")
    return bytes(content)


def _holds_images(column_type: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(column_type):
        return bool(column_type.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type))


def _class_names(metadata: dict[bytes, bytes] | None, label: str | None) -> tuple[str, ...]:
    """The class names of a `ClassLabel` column, which the datasets library stores in the metadata of the schema."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()

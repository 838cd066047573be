"""Read encoded images and their labels from a folder of class folders, a zip of one, or a Parquet file.

Nothing is unpacked to disk: members of a zip are read one by one, each up to a fixed size.
"""

import io
import json
import lzma
import random
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sglp_core.checkpoints.model_folder import within
from sglp_core.data.parquet import batches_of_rows
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


@dataclass(frozen=True)
class ImageFile:
    """One encoded image; `label` is a class name, a number, or None where the source has no labels."""

    name: str
    content: bytes
    label: str | int | None


@dataclass(frozen=True)
class ImageFiles:
    """The chosen images, and all class names that occur in the source (none where labels are numbers or missing)."""

    chosen: tuple[ImageFile, ...]
    class_names: tuple[str, ...]


def read_image_files(path: Path, count: int, seed: int, roots: Sequence[Path] | None = None) -> ImageFiles:
    """Up to `count` images of a source, drawn at random with the seed, without replacement.

    In a folder or a zip, the class of an image is the name of its folder; where all images are in one folder, they have
    no labels. Raises `BadCalibration` for an unreadable source, and `SourceForbidden` where a link leaves `roots`.
    """
    try:
        if path.is_dir():
            return _from_folder(path, count, seed, roots)
        if not path.is_file():
            raise BadCalibration(f"{path.name} is not a file")
        if path.suffix == ".zip":
            return _from_zip(path, count, seed)
        if path.suffix == ".parquet":
            return _from_parquet(path, count, seed)
    except UNREADABLE as error:
        raise BadCalibration(f"{path.name} cannot be read as images: {error}") from error
    raise BadCalibration(f"{path.name}: images come as a folder of class folders, a .zip of one, or a .parquet file")


def _from_folder(path: Path, count: int, seed: int, roots: Sequence[Path] | None) -> ImageFiles:
    files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    names = [file.relative_to(path).as_posix() for file in files]

    def read(name: str) -> bytes:
        with within(path / name, roots).open("rb") as file:
            return _limited(name, file.read)

    return _from_names(path.name, names, read, count, seed)


def _from_zip(path: Path, count: int, seed: int) -> ImageFiles:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in SUFFIXES]

        def read(name: str) -> bytes:
            with archive.open(name) as file:
                return _limited(name, file.read)

        return _from_names(path.name, names, read, count, seed)


def _from_names(source: str, names: list[str], read: Callable[[str], bytes], count: int, seed: int) -> ImageFiles:
    if len(names) > MAX_IMAGES:
        raise BadCalibration(f"{source} holds more than {MAX_IMAGES:,} images")
    # Without hidden files, and without the folder of metadata that macOS adds to archives.
    visible = sorted(name for name in names if not any(p.startswith((".", "__MACOSX")) for p in name.split("/")))
    folders = {name: PurePosixPath(name).parent.name for name in visible}
    labelled = len(set(folders.values())) > 1
    if labelled and "" in folders.values():
        raise BadCalibration(f"{source} has images both beside and inside class folders; keep only one of the two")
    drawn = _draw(visible, count, seed)
    chosen = tuple(ImageFile(name, read(name), folders[name] if labelled else None) for name in drawn)
    return ImageFiles(chosen, tuple(sorted(set(folders.values()))) if labelled else ())


def _from_parquet(path: Path, count: int, seed: int) -> ImageFiles:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
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
        drawn = _draw(list(range(file.metadata.num_rows)), count, seed)
        rows: dict[int, ImageFile] = dict.fromkeys(drawn, ImageFile("", b"", None))
        number = 0
        for group in batches_of_rows(file, [image, *([label] if label else [])]):
            for row in range(len(group)):
                if number in rows:
                    content = group.column(image)[row].as_py()
                    stored_label = group.column(label)[row].as_py() if label else None
                    rows[number] = _image_of_row(f"row {number}", content, stored_label, names)
                number += 1
    if len({image.label is None for image in rows.values()}) > 1:
        raise BadCalibration(f"{path.name}: some images have a label and some have none")
    strings = {image.label for image in rows.values() if isinstance(image.label, str)}
    return ImageFiles(tuple(rows.values()), names or tuple(sorted(strings)))


def _image_of_row(name: str, value: Any, label: str | int | None, names: Sequence[str]) -> ImageFile:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(label, int) and 0 <= label < len(names):
        label = names[label]
    return ImageFile(name, _limited(name, io.BytesIO(content or b"").read), label)


def _draw(items: list[Any], count: int, seed: int) -> list[Any]:
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:count]


def _limited(name: str, read: Callable[[int], bytes]) -> bytes:
    content = read(MAX_IMAGE_BYTES + 1)
    if len(content) > MAX_IMAGE_BYTES:
        raise BadCalibration(f"{name} is larger than {MAX_IMAGE_BYTES:,} bytes")
    return content


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

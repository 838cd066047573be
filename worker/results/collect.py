"""Take the files of a job from its process, into a folder in which that process cannot change them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue, TypeAdapter, ValidationError

from jobs.repository import StoredAnalysis
from worker.untrusted_files import UntrustedFile, take_file

MANIFEST = "manifest.json"
REPORT = "report.json"
# Not published: the database stores it.
ANALYSIS, MATRIX = "analysis.json", "similarity.f32"
# Every report and matrix fits several times: the largest similarity of 1,000 layers has 4 MB.
MOST_JSON_BYTES = 64 << 20
MOST_FILES = 10_000
JSON_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
ANALYSES = TypeAdapter(StoredAnalysis)


class ManifestFile(BaseModel):
    """A file that the job says it has written."""

    name: Annotated[str, Field(min_length=1, max_length=512)]
    media_type: Annotated[str, Field(pattern=r"^[\w.+-]{1,63}/[\w.+-]{1,63}(; ?[\w=.+-]{1,60})?$")]
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Manifest(BaseModel):
    files: Annotated[list[ManifestFile], Field(max_length=MOST_FILES)]


@dataclass(frozen=True)
class Collected:
    """The files of a job below `folder`, those to publish in `files`; `analysis` is None where the job has none."""

    folder: Path
    files: list[ManifestFile]
    report: dict[str, JsonValue]
    analysis: StoredAnalysis | None


def collect(output: Path, target: Path, max_bytes: int) -> Collected:
    """Make hard links in the new folder `target` to the files that the manifest in `output` names, and to those that
    the database stores.

    Raises `UntrustedFile` for what is no regular file, is missing, has another size than the manifest says, or makes
    all files together larger than `max_bytes`, and for JSON that is not of the expected form.
    """
    target.mkdir()
    try:
        files = _Manifest.model_validate_json(_taken(output, MANIFEST, target)).files
        left = max_bytes
        for file in files:
            size_bytes = take_file(output, file.name, target / file.name, left)
            if size_bytes != file.size_bytes:
                raise UntrustedFile(f"{file.name} has {size_bytes} bytes, and the manifest says {file.size_bytes}")
            left -= size_bytes
        report = JSON_OBJECT.validate_json(_taken(output, REPORT, target))
        return Collected(target, files, report, _analysis(output, target))
    except FileNotFoundError as error:
        raise UntrustedFile(f"a file of the result is missing: {error.filename}") from error
    except ValidationError as error:
        raise UntrustedFile(
            f"{error.title} has {error.error_count()} errors, such as {error.errors()[0]['msg']}"
        ) from error


def _analysis(output: Path, target: Path) -> StoredAnalysis | None:
    if not os.path.lexists(output / ANALYSIS):
        return None
    facts: dict[str, Any] = JSON_OBJECT.validate_json(_taken(output, ANALYSIS, target))
    return ANALYSES.validate_python({**facts, "matrix": _taken(output, MATRIX, target)})


def _taken(output: Path, name: str, target: Path) -> bytes:
    if not (target / name).exists():
        take_file(output, name, target / name, MOST_JSON_BYTES)
    content = (target / name).read_bytes()
    if name != MATRIX and b"\\u0000" in content:
        # PostgreSQL stores no such text.
        raise UntrustedFile(f"{name} has a character of number 0")
    return content

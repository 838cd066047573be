"""JSON that came with a model, read without surprises: bounded in size and depth, no name twice, no NaN."""

import json
from pathlib import Path
from typing import Any

from sglp_core.errors import UnsafeFormat

MAX_BYTES = 64_000_000
MAX_DEPTH = 60


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file. Infinity is a number here, as transformers writes it. Raises `UnsafeFormat`."""
    value = require_json(file, object_pairs_hook=unique_keys, parse_constant=_constant)
    if not isinstance(value, dict):
        raise UnsafeFormat(f"{file.name} is not a JSON object")
    _require_shallow(value, file.name, MAX_DEPTH)
    return value


def require_json(file: Path, **options: Any) -> Any:
    """Whatever JSON is in a file. Raises `UnsafeFormat`."""
    if file.stat().st_size > MAX_BYTES:
        raise UnsafeFormat(f"{file.name} is larger than {MAX_BYTES:,} bytes")
    try:
        return json.loads(file.read_bytes(), **options)
    except (ValueError, RecursionError) as error:
        raise UnsafeFormat(f"{file.name} is not valid JSON: {error}") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object for `json.loads`; raises `ValueError` where a name appears twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN is no value")
    return float(name)


def _require_shallow(value: Any, name: str, levels: int) -> None:
    if levels < 0:
        raise UnsafeFormat(f"{name} is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _require_shallow(each, name, levels - 1)

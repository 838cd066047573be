"""Read JSON files that came with a model, with limits on size and depth; duplicate keys and NaN are errors."""

import json
from pathlib import Path
from typing import Any

from sglp_core.errors import UnsafeFormat

# An object of somebody else's JSON: nothing is known of its members until they are checked.
JsonObject = dict[str, Any]

MAX_BYTES = 64_000_000
MAX_DEPTH = 60


def read_json(file: Path) -> JsonObject:
    """The object in a file. Infinity is allowed, as transformers writes it. Raises `UnsafeFormat`."""
    value = require_json(file, object_pairs_hook=unique_keys, parse_constant=_constant)
    if not isinstance(value, dict):
        raise UnsafeFormat(f"{file.name} is not a JSON object")
    _require_shallow(value, file.name, MAX_DEPTH)
    return value


def require_json(file: Path, **options: Any) -> Any:
    """The JSON value in a file, of any type; `options` go to `json.loads`. Raises `UnsafeFormat`."""
    if file.stat().st_size > MAX_BYTES:
        raise UnsafeFormat(f"{file.name} is larger than {MAX_BYTES:,} bytes")
    try:
        return json.loads(file.read_bytes(), **options)
    except (ValueError, RecursionError) as error:
        raise UnsafeFormat(f"{file.name} is not valid JSON: {error}") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> JsonObject:
    """An `object_pairs_hook` of `json.loads`; raises `ValueError` where a key appears twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN is not allowed")
    return float(name)


def _require_shallow(value: Any, name: str, levels: int) -> None:
    if levels < 0:
        raise UnsafeFormat(f"{name} is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _require_shallow(each, name, levels - 1)

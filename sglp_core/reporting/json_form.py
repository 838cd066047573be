"""From dataclasses to what `json` writes: the one way in which reports become JSON."""

import math
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

# Metadata of a field that the JSON lacks where it is None; pydantic, which makes the schema, reads the same name.
LEFT_OUT_IF_NONE = {"exclude_if": lambda value: value is None}


def to_json(value: Any) -> Json:
    """A dataclass as an object, a tuple as an array; a field is called by its `alias`, where it has one."""
    if is_dataclass(value):
        return to_json_object(value)
    if isinstance(value, dict):
        return {name: to_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    assert value is None or isinstance(value, bool | int | float | str), f"{type(value).__name__} is not JSON"
    return value


def to_json_object(part: Any) -> dict[str, Json]:
    """The fields of a dataclass in their order."""
    values = ((field, getattr(part, field.name)) for field in fields(part))
    return {
        field.metadata.get("alias", field.name): to_json(value)
        for field, value in values
        if not ("exclude_if" in field.metadata and field.metadata["exclude_if"](value))
    }


def finite(value: float | None) -> float | None:
    """None for NaN and infinities, which JSON lacks: a destroyed model has them in half precision."""
    return value if value is not None and math.isfinite(value) else None

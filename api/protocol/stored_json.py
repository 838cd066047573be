"""JSON of the database in an answer: shown as it was stored, described in the OpenAPI document as a type."""

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class DescribedAs:
    """`Annotated[JsonObject, DescribedAs(Plan)]` has the schema of `Plan`, and checks nothing: another version may have
    stored the JSON.
    """

    def __init__(self, described: object) -> None:
        self._described = described

    def __get_pydantic_core_schema__(self, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _unchanged,
            handler.generate_schema(self._described),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )


def _unchanged(value: Any, _validate: Any) -> Any:
    return value

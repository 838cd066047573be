"""What all tables share: the base class, its naming convention, and JSON as each database stores it best."""

from datetime import datetime

from pydantic import JsonValue
from sqlalchemy import JSON, Double, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from jobs.clock import UTCDateTime

# What other versions may have written: it is read as JSON, not as a type of this version.
JsonObject = dict[str, JsonValue]
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UTCDateTime(), JsonObject: Json, list[str]: Json, str: Text(), float: Double()}  # noqa: RUF012

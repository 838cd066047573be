"""Lists in pages: `limit` rows a page, and an opaque cursor from which the next page goes on."""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Self, TypeVar

from fastapi import Query
from pydantic import AfterValidator, BaseModel

Row = TypeVar("Row")
View = TypeVar("View")
# Ids, and the names of tenants.
KEY = re.compile("[a-z0-9_-]{1,64}")


class Page(BaseModel, Generic[View]):
    """A page of a list; `next_cursor` is the `after` of the next page, and null on the last one."""

    data: list[View]
    has_more: bool
    next_cursor: str | None

    @classmethod
    def of(cls, rows: Sequence[Row], limit: int, view: Callable[[Row], View], key: Callable[[Row], str]) -> Self:
        """The first `limit` of the rows; the caller asks the database for one more, which says whether there is more.

        `key` is what the list is sorted by.
        """
        shown, has_more = rows[:limit], len(rows) > limit
        return cls(
            data=[view(row) for row in shown],
            has_more=has_more,
            next_cursor=_encode(key(shown[-1])) if has_more else None,
        )


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _decode(cursor: str | None) -> str | None:
    if cursor is None:
        return None
    try:
        key = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        key = ""
    if not KEY.fullmatch(key):
        raise ValueError("is not a cursor of this service")
    return key


Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[
    str | None,
    Query(max_length=100, description="`next_cursor` of the previous page"),
    AfterValidator(_decode),
]
"""The sort key of the last row of the previous page."""

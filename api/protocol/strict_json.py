"""Request bodies as JSON that all readers agree on (RFC 8259, I-JSON): what only some would take is refused, so that
nothing in front of the service reads a request as another one than the service does.
"""

import json
import math
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import JsonValue

from api.protocol.problems import Problem


class StrictRequest(Request):
    """A request whose JSON is UTF-8, names no member twice, and has only numbers that there are."""

    async def json(self) -> Any:
        try:
            return json.loads(
                (await self.body()).decode(),
                object_pairs_hook=_members,
                parse_float=_finite,
                parse_constant=_no_number,
            )
        except json.JSONDecodeError:
            raise
        except RecursionError:
            raise _refusal("is nested too deeply") from None
        except UnicodeDecodeError:
            raise _refusal("is not UTF-8") from None
        except ValueError as error:
            raise _refusal(str(error)) from None


class StrictRoute(APIRoute):
    """A route that reads its body in this way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("names a member twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("has a number that is too large")
    return number


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"has {name}, which is no JSON")


def _refusal(detail: str) -> Problem:
    errors = [{"pointer": "", "detail": detail}]
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"the request's JSON {detail}", errors=errors)

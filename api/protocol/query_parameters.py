"""Query parameters a route does not know are refused: a filter with a slip in its name would choose everything."""

import re
from http import HTTPStatus

from fastapi import Request
from fastapi.routing import APIRoute

from api.protocol.problems import Problem

MEMBER = re.compile(r"(\w+)\[([^\0]{1,200})\]", re.DOTALL)


async def refuse_unknown_parameters(request: Request) -> None:
    """Raise a 422 that names every parameter that is unknown here, and every one that occurs twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    if not names:
        return
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = [field.alias for field in route.dependant.query_params]
    objects = [each["name"] for each in (route.openapi_extra or {}).get("parameters", [])]
    errors = []
    for name in dict.fromkeys(names):
        member = MEMBER.fullmatch(name)
        if name not in known and not (member and member[1] in objects):
            possible = ", ".join([*known, *(f"{each}[name]" for each in objects)])
            detail = f"is not known here; {possible} are" if possible else "is not known here, as no parameter is"
            errors.append({"parameter": name, "detail": detail})
        elif names.count(name) > 1:
            errors.append({"parameter": name, "detail": "is given more than once"})
    if errors:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the query does not have the documented form", errors=errors)


def members(request: Request, parameter: str) -> dict[str, str]:
    """What the query says of an object: `metadata[name]=text` for every name."""
    matches = ((MEMBER.fullmatch(name), text) for name, text in request.query_params.items())
    return {member[2]: text for member, text in matches if member and member[1] == parameter}

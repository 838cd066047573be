"""Which representation a client wants (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import Request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from api.protocol.problems import Problem


def negotiate(request: Request, offered: Sequence[str]) -> str:
    """The media type of `offered` that suits best, the first without a wish; 406 where none does."""
    accept = request.headers.get("accept")
    if not accept:
        return offered[0]
    # Parameters such as a charset say how, not what; nothing here comes in more than one way.
    types = [(media_range.partition(";")[0].strip(), quality) for media_range, quality in parse_accept_header(accept)]
    best = MIMEAccept(types).best_match(offered)
    if best is None:
        raise Problem(HTTPStatus.NOT_ACCEPTABLE, f"this is available as {', '.join(offered)}", offered=list(offered))
    return best

"""Requests to a service: the key they carry, which answers are errors, and when a request is sent again."""

import os
import time
import uuid
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import httpx

from sglp_client.errors import BadKey, SGLPProblem
from sglp_client.resources import Job, Json, Page

RETRY_PAUSE_SECONDS = 0.5
# How long the service may be unavailable before a call gives up.
UNAVAILABLE_SECONDS = 60.0
UNAVAILABLE = {429, 502, 503, 504}
REQUEST_ERRORS = (httpx.TransportError, httpx.HTTPStatusError, SGLPProblem)

Answer = TypeVar("Answer")


class Connection:
    """Requests to one service; paths are relative to its address. Raises `SGLPProblem` and httpx's errors."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        key = (api_key or os.environ.get("SGLP_API_KEY", "")).strip()
        if not (key.isascii() and key.isprintable()):
            raise BadKey("the API key has characters that no key has")
        # httpx leaves this header out where a download is redirected to another host.
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout)

    def call(self, _answer: type[Answer], method: str, path: str, **request: Any) -> Answer:
        """Send a request and return its JSON answer, whose type is the first argument."""
        response = self.http.request(method, path, **request)
        raise_for_problem(response)
        return cast(Answer, response.json())

    def delete(self, path: str) -> None:
        """Send a DELETE request."""
        raise_for_problem(self.http.delete(path))

    def pages(self, page_type: type[Page[Answer]], path: str, query: Json) -> Iterator[Answer]:
        """Every item of a list that the service returns in pages."""
        while True:
            page = self.call(page_type, "GET", path, params=query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query = {**query, "after": page["next_cursor"]}

    def create_job(self, path: str, idempotency_key: str | None, **request: Any) -> Job:
        """Send a POST request again until it is answered; its idempotency key makes one job of it."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        give_up = time.monotonic() + UNAVAILABLE_SECONDS
        while True:
            try:
                return self.call(Job, "POST", path, headers=headers, **request)
            except REQUEST_ERRORS as error:
                # Only where the service may have created the job already: not where a quota is used up, nor where
                # there is no service at all.
                over_quota = isinstance(error, SGLPProblem) and error.status == httpx.codes.TOO_MANY_REQUESTS
                not_there = isinstance(error, httpx.ConnectError)
                if over_quota or not_there or is_final(error) or time.monotonic() >= give_up:
                    raise
                time.sleep(RETRY_PAUSE_SECONDS)


def is_final(error: Exception) -> bool:
    """Whether the request would fail again: false where the service is down for a moment."""
    if isinstance(error, SGLPProblem):
        return error.status not in UNAVAILABLE
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in UNAVAILABLE


def raise_for_problem(response: httpx.Response) -> None:
    """Raises `SGLPProblem` for a refusal of the service, `httpx.HTTPStatusError` for one of another server."""
    if response.is_success:
        return
    response.read()
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        raise SGLPProblem(response.json())
    response.raise_for_status()

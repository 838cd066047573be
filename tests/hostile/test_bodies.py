"""Request bodies that mean harm: each is refused with its status, and the service goes on."""

import gzip
import json

import pytest

from tests.api.conftest import SPEC
from tests.hostile.conftest import Server
from tests.hostile.wire import post, request

BODY = json.dumps(SPEC).encode()
LIMIT_BYTES = 64 * 1024
JOB = b'{"model": {"uri": "hf://org/name"}, "mode": "analyze", %s}'
CHUNKED = "Transfer-Encoding: chunked"


def chunks(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def chunked(body: bytes, *headers: str) -> bytes:
    return post("/v1/jobs", b"", "Content-Type: application/json", CHUNKED, *headers, length=-1) + chunks(body)


CASES = {
    "arrays without end": (post("/v1/jobs", b"[" * 60_000), 422),
    "objects in objects": (post("/v1/jobs", JOB % (b'"metadata": ' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000)), 422),
    "a number of 50,000 digits": (post("/v1/jobs", JOB % (b'"deadline_seconds": ' + b"9" * 50_000)), 422),
    "a number too large": (post("/v1/jobs", JOB % b'"metadata": {"a": 1e999}'), 422),
    "NaN": (post("/v1/jobs", JOB % b'"metadata": {"a": NaN}'), 422),
    "a member twice": (post("/v1/jobs", JOB % b'"mode": "compress"'), 422),
    "no UTF-8": (post("/v1/jobs", JOB % b'"metadata": {"a": "\xff"}'), 422),
    "UTF-16": (post("/v1/jobs", BODY.decode().encode("utf-16")), 422),
    "NUL in a text": (post("/v1/jobs", JOB % b'"metadata": {"a": "\\u0000"}'), 422),
    "half of a surrogate pair": (post("/v1/jobs", JOB % b'"metadata": {"a": "\\ud800"}'), 422),
    "nothing": (post("/v1/jobs", b""), 422),
    "a text": (post("/v1/jobs", b'"job"'), 422),
    "too long and says so": (post("/v1/jobs", b" " * (LIMIT_BYTES + 1)), 413),
    "says that it is endless": (post("/v1/jobs", b"", length=2**63), 413),
    "too long in chunks": (chunked(b" " * (LIMIT_BYTES + 1)), 413),
    "compressed": (post("/v1/jobs", gzip.compress(BODY), "Content-Encoding: gzip"), 415),
    "compressed twice": (post("/v1/jobs", gzip.compress(BODY), "Content-Encoding: gzip, gzip"), 415),
    "a length below zero": (request("POST", "/v1/jobs", b"", "Content-Length: -1", length=-1), 400),
    "a length that is none": (request("POST", "/v1/jobs", b"", "Content-Length: many", length=-1), 400),
    "two lengths": (post("/v1/jobs", BODY, f"Content-Length: {len(BODY) + 1}"), 400),
    "a length and chunks": (post("/v1/jobs", chunks(BODY), CHUNKED), 400),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_and_the_service_goes_on(server: Server, name: str) -> None:
    sent, status = CASES[name]
    answer = server.ask(sent)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert server.ask(request("GET", "/livez")).status == 200


def test_a_shorter_length_than_the_body_makes_no_second_request(server: Server) -> None:
    smuggled = request("DELETE", "/v1/jobs/job_00000000000000000000000000")
    answer = server.ask(post("/v1/jobs", BODY[:-1] + smuggled, length=len(BODY) - 1))
    assert answer.status == 422


def test_what_is_whole_is_taken(server: Server) -> None:
    assert server.ask(post("/v1/jobs", BODY)).status == 202
    assert server.ask(chunked(BODY)).status == 202

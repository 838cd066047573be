"""Header fields and queries that mean harm: each gets a status of its own, and nothing a line of its own anywhere."""

import pytest

from tests.hostile.conftest import Server
from tests.hostile.wire import post, request

LIST = "/v1/jobs"
JOB = "/v1/jobs/job_00000000000000000000000000"
NO_JOB = b'{"model": {"uri": "hf://org/name"}, "mode": "no such mode"}'
CASES: dict[str, tuple[bytes, set[int | None]]] = {
    "a control character in a value": (request("GET", LIST, b"", "X-Request-Id: a\x01b"), {200, 400}),
    "NUL in a value": (request("GET", LIST, b"", "X-Request-Id: a\x00b"), {400}),
    "a bare line feed in a value": (request("GET", LIST, b"", "X-Request-Id: a\nX-Injected: yes"), {200, 400}),
    "a space in a name": (request("GET", LIST, b"", "X Request: a"), {400}),
    "no name": (request("GET", LIST, b"", ": a"), {400}),
    "a field of 60 KB": (request("GET", LIST, b"", "X-Long: " + "a" * 60_000), {200, 400, 431}),
    "endless fields": (request("GET", LIST, b"", *(f"X-{n}: a" for n in range(50_000))), {400, 431, None}),
    "5,000 known versions": (request("GET", JOB, b"", "If-None-Match: " + ", ".join(['"a"'] * 5_000)), {404}),
    "half an entity tag": (request("GET", JOB, b"", 'If-None-Match: "' + '\\"' * 5_000), {404}),
    "5,000 ranges": (request("GET", JOB + "/artifacts/a", b"", "Range: bytes=" + "0-," * 5_000), {404}),
    "5,000 media types": (request("GET", JOB + "/report", b"", "Accept: " + "a/b;q=0.1," * 5_000), {404, 406}),
    "a quality that is none": (request("GET", JOB + "/report", b"", "Accept: a/b;q=" + "9" * 5_000), {404, 406}),
    "a wait without end": (request("GET", JOB, b"", "Prefer: wait=" + "9" * 5_000), {404}),
    "5,000 preferences": (request("GET", JOB, b"", "Prefer: " + "wait=," * 5_000), {404}),
    "an event that is no number": (request("GET", JOB + "/events", b"", "Last-Event-ID: -1e9"), {404, 422}),
    "an event beyond all": (request("GET", JOB + "/events", b"", "Last-Event-ID: " + "9" * 5_000), {404, 422}),
    "an event that injects": (request("GET", JOB + "/events", b"", "Last-Event-ID: 1\tdata"), {404, 422}),
    "a key that is too long": (post(LIST, NO_JOB, "Idempotency-Key: " + "k" * 5_000), {422}),
    "a key of another alphabet": (post(LIST, NO_JOB, "Idempotency-Key: \xff\xfe"), {422}),
    "a trace that is none": (request("GET", LIST, b"", "traceparent: 00-zz-zz-zz"), {200}),
    "no such authority": (request("GET", LIST, b"", "Authorization: Bearer \xff" + "a" * 5_000), {200, 401}),
    "another way to give a key": (request("GET", LIST, b"", "Authorization: " + "Basic " * 1_000), {200, 401}),
    "10,000 parameters": (request("GET", LIST + "?" + "&".join(["a=b"] * 10_000)), {200, 400, 422}),
    "a limit without end": (request("GET", LIST + "?limit=" + "9" * 5_000), {422}),
    "a cursor that is none": (request("GET", LIST + "?after=" + "A" * 5_000), {422}),
    "a state with a line in it": (request("GET", LIST + "?status=a%0d%0aX-Injected:%20yes"), {422}),
    "a name with lines in it": (request("GET", JOB + "/artifacts/a%0d%0aX-Injected:%20yes"), {404}),
    "a name that climbs": (request("GET", JOB + "/artifacts/..%2f..%2f..%2fetc%2fpasswd"), {404}),
    "a name with NUL": (request("GET", JOB + "/artifacts/a%00b"), {404}),
    "a name that is no UTF-8": (request("GET", JOB + "/artifacts/%ff%fe"), {404}),
    "a name that is too long": (request("GET", JOB + "/artifacts/" + "a" * 5_000), {422}),
    "a job with lines in its name": (request("GET", "/v1/jobs/a%0d%0aX-Injected:%20yes"), {404, 422}),
    "a whole address": (request("GET", "http://elsewhere.example/v1/jobs"), {200, 400, 404}),
    "another protocol": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", {400, 404, 505, None}),
    "another protocol's greeting": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505, None}),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), {400, None}),
    "a method of its own": (request("BREW", LIST), {405}),
    "a method without end": (request("A" * 5_000, LIST), {400, 405}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_gets_its_status_and_says_nothing_of_its_own(server: Server, name: str) -> None:
    sent, statuses = CASES[name]
    answer = server.ask(sent)
    assert answer.status in statuses, (answer.status, answer.body[:500])
    assert "x-injected" not in answer.headers
    assert server.ask(request("GET", "/livez")).status == 200
    # A line of the log that is no event of its own fails here.
    assert server.lines()

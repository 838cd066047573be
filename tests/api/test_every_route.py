"""Every route of the OpenAPI document, also one that was added yesterday: no key, no scope, somebody else's id."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.security.api_keys import Scope
from jobs.settings import Settings
from tests.api.conftest import SPEC
from tests.api.keyed import assert_problem, make_key, with_keys

Route = tuple[str, str]
PUBLIC = {"/livez", "/readyz", "/metrics"}
JOBS = (Scope.JOBS_READ, Scope.JOBS_WRITE)
# What stands for a parameter that names no resource of a tenant.
PLAIN = {"{name}": "report.json"}
# An id of the right form that nobody has.
UNKNOWN = {
    "{job_id}": "job_" + "0" * 26,
    "{endpoint_id}": "whe_" + "0" * 26,
    "{delivery_id}": "msg_" + "0" * 26,
    "{upload_id}": "upload_" + "0" * 26,
}
# What a route wants of a body before it looks for the resource.
BODIES: dict[Route, dict] = {}
# What differs from request to request.
VARYING = {"date", "ratelimit", "x-request-id"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_keys(settings)


@pytest.fixture
def owned(client: httpx.Client, sessions: sessionmaker[Session], finish: Callable[[str], None]) -> dict[str, str]:
    """Path parameters that name resources of the tenant `ours`, with everything there is to see."""
    key = make_key(sessions, "ours", *JOBS)
    endpoints = "/v1/webhook-endpoints"
    endpoint_id = client.post(endpoints, json={"url": "https://example.com/"}, headers=key).json()["id"]
    job_id = client.post("/v1/jobs", json=SPEC, headers=key).json()["id"]
    finish(job_id)
    (delivery,) = client.get(f"{endpoints}/{endpoint_id}/deliveries", headers=key).json()["data"]
    file = {"name": PLAIN["{name}"], "size_bytes": 2, "sha256": "0" * 64}
    upload = client.post("/v1/uploads", json={"name": "mine", "kind": "dataset", "files": [file]}, headers=key).json()
    ids = {"{job_id}": job_id, "{endpoint_id}": endpoint_id, "{delivery_id}": delivery["id"]}
    return {**ids, "{upload_id}": upload["id"]}


def routes(client: httpx.Client) -> Iterator[Route]:
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            yield method.upper(), path


def filled(path: str, values: dict[str, str]) -> str:
    for parameter, value in values.items():
        path = path.replace(parameter, value)
    return path


def ask(client: httpx.Client, route: Route, values: dict[str, str], key: dict[str, str] | None) -> httpx.Response:
    method, path = route
    body = None if method in {"GET", "DELETE"} else BODIES.get(route, {})
    return client.request(method, filled(path, {**values, **PLAIN}), headers=key, json=body)


def seen(response: httpx.Response, own_id: str) -> tuple[int, dict[str, str], bytes]:
    """All of an answer but what differs from request to request, with the id that was asked for taken out."""
    headers = {name: value for name, value in response.headers.items() if name not in VARYING}
    return response.status_code, headers, response.content.replace(own_id.encode(), b"<id>")


def test_without_a_key_only_what_is_public_answers(client: httpx.Client, owned: dict[str, str]) -> None:
    called = set()
    for route in routes(client):
        response = ask(client, route, owned, None)
        if route[1] in PUBLIC:
            called.add(route[1])
            assert response.status_code == 200, route
        else:
            assert_problem(response, 401)
            assert response.headers["WWW-Authenticate"] == "Bearer"
    assert called >= {"/livez", "/readyz"}


def test_without_its_scope_a_key_opens_nothing(
    client: httpx.Client, sessions: sessionmaker[Session], owned: dict[str, str]
) -> None:
    guarded = [route for route in routes(client) if route[1] not in PUBLIC]
    for needed in Scope:
        others = make_key(sessions, "ours", *(scope for scope in Scope if scope is not needed))
        chosen = [route for route in guarded if scope_of(route) is needed]
        assert chosen
        for route in chosen:
            response = ask(client, route, owned, others)
            assert_problem(response, 403)
            assert needed in response.json()["detail"]


def scope_of(route: Route) -> Scope:
    if route[1].startswith("/v1/admin/"):
        return Scope.ADMIN
    return Scope.JOBS_READ if route[0] == "GET" else Scope.JOBS_WRITE


def test_somebody_elses_id_is_answered_like_one_that_nobody_has(
    client: httpx.Client, sessions: sessionmaker[Session], owned: dict[str, str]
) -> None:
    ours, theirs = make_key(sessions, "ours", *JOBS), make_key(sessions, "theirs", *JOBS)
    asked = 0
    for route in routes(client):
        if "{" not in route[1] or scope_of(route) is Scope.ADMIN:
            continue
        (parameter,) = [name for name in parameters(route[1]) if name not in PLAIN]
        assert parameter in owned, f"say in `owned` and `UNKNOWN` what stands for {parameter} of {route}"
        foreign = ask(client, route, owned, theirs)
        unknown = ask(client, route, UNKNOWN, theirs)
        assert_problem(foreign, 404)
        assert seen(foreign, owned[parameter]) == seen(unknown, UNKNOWN[parameter]), route
        # Refused for whose it is, and not for how it is asked for.
        if route[0] == "GET":
            assert ask(client, route, owned, ours).status_code in {200, 307}, route
        asked += 1
    assert asked >= 9


def parameters(path: str) -> list[str]:
    return [f"{{{part.partition('}')[0]}}}" for part in path.split("{")[1:]]


@pytest.mark.parametrize("host", ["x/y?", "x/v1/jobs#", "x?", "x\\y", "x/../v1/jobs?"])
def test_a_host_that_holds_a_path_opens_no_other_route(
    client: httpx.Client, sessions: sessionmaker[Session], host: str
) -> None:
    """Put together with the path it would be the address of something that asks for less."""
    reader = make_key(sessions, "ours", *JOBS)
    answer = client.get("/v1/admin/keys", headers={**reader, "Host": host})
    assert answer.status_code in {400, 403}
    assert "data" not in answer.json()

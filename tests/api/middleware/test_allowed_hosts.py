"""A service without keys answers programs on its machine, and no page in a browser there."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from jobs.database import migrate
from jobs.settings import Settings
from tests.api.conftest import SPEC, serving
from tests.api.keyed import assert_problem, with_keys
from tests.services.processes import free_port, server_process


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One way of running it is enough: no database decides this."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url)
    return Settings(database_url=url, artifact_url=(tmp_path / "artifacts").as_uri())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", ""])
def test_another_name_for_this_machine_is_refused(client: httpx.Client, host: str) -> None:
    assert_problem(client.get("/v1/jobs", headers={"Host": host}), 400)
    assert_problem(client.get("/livez", headers={"Host": host}), 400)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_the_names_of_this_machine_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["])
def test_a_page_of_another_origin_is_refused(client: httpx.Client, origin: str) -> None:
    assert_problem(client.post("/v1/jobs", json=SPEC, headers={"Origin": origin}), 403)
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_page_of_the_service_itself_is_answered(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    assert client.post("/v1/jobs", json=SPEC, headers={"Origin": own}).status_code == 202


def test_a_body_that_a_page_may_send_unasked_is_refused(client: httpx.Client) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post("/v1/jobs", content=b"{}", headers={"Content-Type": media_type})
        assert_problem(response, 422)


def test_a_service_without_keys_takes_no_notice_of_one(client: httpx.Client) -> None:
    assert client.get("/v1/jobs", headers={"Authorization": "Bearer sglp_of_another_service"}).status_code == 200


def test_with_keys_the_hosts_are_the_operators_choice(settings: Settings) -> None:
    with serving(with_keys(settings).model_copy(update={"allowed_hosts": ("*.example.org",)})) as client:
        assert client.get("/livez", headers={"Host": "sglp.example.org"}).status_code == 200
        assert_problem(client.get("/v1/jobs"), 400)
        # Whoever watches the service calls it by an address.
        for probe in ("/livez", "/readyz", "/metrics"):
            assert client.get(probe).status_code == 200


@pytest.mark.parametrize(
    ("fields", "keys", "hosts"),
    [
        ({}, False, ("localhost", "127.0.0.1", "[::1]")),
        ({"host": "::1"}, False, ("localhost", "127.0.0.1", "[::1]")),
        ({"require_keys": True}, True, ("*",)),
        ({"host": "0.0.0.0"}, True, ("*",)),
        ({"host": "sglp.example.org"}, True, ("*",)),
    ],
    ids=str,
)
def test_keys_are_required_unless_only_this_machine_reaches_the_service(
    fields: dict, keys: bool, hosts: tuple[str, ...]
) -> None:
    settings = Settings(**fields)
    assert (settings.require_keys, settings.allowed_hosts) == (keys, hosts)


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    return {**os.environ, "SGLP_STATE_DIR": str(tmp_path), **settings}


def test_an_open_service_on_another_address_does_not_start(tmp_path: Path) -> None:
    port = str(free_port())
    refused = subprocess.run(
        [sys.executable, "-m", "api"],
        env=environment(tmp_path, SGLP_HOST="0.0.0.0", SGLP_PORT=port, SGLP_REQUIRE_KEYS="false"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "python -m jobs create-key" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_open_service_says_so_and_a_closed_one_needs_no_warning(tmp_path: Path) -> None:
    for name, settings, warned in (("open", {}, True), ("closed", {"SGLP_HOST": "0.0.0.0"}, False)):
        port, log = free_port(), tmp_path / f"{name}.log"
        values = environment(tmp_path, SGLP_PORT=str(port), **settings)
        with server_process([sys.executable, "-m", "api"], port, log, values):
            status = httpx.get(f"http://127.0.0.1:{port}/v1/nothing").status_code
        assert ("There are no API keys" in log.read_text(), status) == (warned, 404 if warned else 401)

"""What the containers of docker-compose.yml may do, and whom they reach."""

import re
import tomllib
from itertools import combinations
from typing import Any

import pytest

from tests.docker.rendered import ROOT, rendered

SERVERS = {"postgres", "redis", "s3"}
# The object store's image has no other user.
ROOTS_USER = {"s3"}
# A model may take all of the machine's memory.
UNBOUNDED = {"worker"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return rendered()


def test_no_container_has_rights_that_it_does_not_need(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert 0 < int(service["pids_limit"]) <= 4096, name
        assert ("user" in service) == (name not in ROOTS_USER), name
        assert service.get("user") not in {"0", "root"}, name
        assert ("mem_limit" in service) == (name not in UNBOUNDED), name


def test_what_is_written_lies_in_memory_or_on_a_volume(compose: dict[str, Any]) -> None:
    writable = {
        name: {mount["target"] for mount in service.get("volumes", []) if not mount.get("read_only")}
        for name, service in compose["services"].items()
    }
    assert writable == {
        "api": set(),
        "worker": {"/var/lib/sglp"},
        "scheduler": set(),
        "migrate": set(),
        "postgres": {"/var/lib/postgresql/data"},
        "redis": {"/data"},
        "s3": {"/data"},
        "bucket": set(),
    }
    assert all("/tmp" in service["tmpfs"] for service in compose["services"].values())


def test_only_the_api_is_published_and_only_on_this_machine(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert [(name, [port["host_ip"] for port in ports]) for name, ports in published.items()] == [
        ("api", ["127.0.0.1"])
    ]


def test_servers_are_reached_by_those_alone_that_use_them(compose: dict[str, Any]) -> None:
    networks = {name: set(service["networks"]) for name, service in compose["services"].items()}
    reached = {frozenset(pair) for pair in combinations(networks, 2) if networks[pair[0]] & networks[pair[1]]}
    reached_by = {
        server: {next(iter(pair - {server})) for pair in reached if server in pair} for server in sorted(SERVERS)
    }
    assert reached_by == {
        "postgres": {"api", "worker", "scheduler", "migrate"},
        "redis": {"worker", "scheduler"},
        "s3": {"api", "worker", "scheduler", "bucket"},
    }


def test_servers_reach_nothing_outside(compose: dict[str, Any]) -> None:
    internal = {name for name, network in compose["networks"].items() if network.get("internal")}
    for server in [*SERVERS, "bucket", "migrate"]:
        assert set(compose["services"][server]["networks"]) <= internal, server


def test_images_and_chart_name_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in ("api", "worker"):
        text = (ROOT / f"docker/{name}.Dockerfile").read_text()
        assert re.findall(r'org\.opencontainers\.image\.version="(.*?)"', text) == [version]
    chart = (ROOT / "deploy/helm/sglp/Chart.yaml").read_text()
    assert re.findall(r"^(?:appV|v)ersion: (.*)$", chart, re.MULTILINE) == [version, version]

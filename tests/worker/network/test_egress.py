"""Addresses that must not be connected to, however they are spelled, and whatever a name stands for later."""

import socket
import time
from ipaddress import ip_address, ip_network
from typing import Any

import httpcore
import pytest

from jobs.locations.addresses import may_connect
from tests.services.receiver import receiver
from worker.network.egress import AddressRefused, guarded_pool

REFUSED = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::",
    "::7f00:1", "2001:db8::1", "192.88.99.1", "fec0::1", "3fff::1", "192.0.0.192", "192.0.0.9", "192.31.196.1",
    "192.52.193.1", "192.175.48.1", "2620:4f:8000::1", "168.63.129.16", "::ffff:168.63.129.16", "::ffff:0:a83f:8110",
    "::a83f:8110", "2002:a83f:8110::1", "64:ff9b::a83f:8110", "64:ff9b::192.0.0.192", "2001:4860::5efe:a83f:8110",
    "2001:4860::200:5efe:7f00:1", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "192.80.8.124", "161.26.0.10",
    "166.9.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_it_may_not_be_connected_to(address: str) -> None:
    assert not may_connect(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "168.63.129.15", "192.0.1.1", "2001:4860:4860::8888"]
)
def test_public_addresses_may(address: str) -> None:
    assert may_connect(ip_address(address))


def test_a_network_that_is_allowed_may_too() -> None:
    assert may_connect(ip_address("10.1.2.3"), [ip_network("10.0.0.0/8")])
    assert not may_connect(ip_address("::ffff:10.1.2.3"), [ip_network("10.0.0.0/8")])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "localhost.", "0", "[::1]",
     "[::ffff:127.0.0.1]", "127.0.0.1.", "LOCALHOST"],
)  # fmt: skip
def test_loopback_is_refused_in_every_spelling(host: str) -> None:
    with receiver() as running, guarded_pool() as pool:
        port = running.url.split(":")[2].split("/")[0]
        # A spelling that this system does not resolve is refused as well.
        with pytest.raises(httpcore.ConnectError):
            pool.request("POST", f"http://{host}:{port}/", content=b"", headers={"Content-Length": "0"})
        assert running.received == []


def test_a_name_that_changes_its_mind_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["8.8.8.8", "127.0.0.1"]
    connected: list[Any] = []

    def rebinding(_host: str, port: int, **_options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    def connect(address: tuple[str, int], *_rest: Any, **_options: Any) -> Any:
        connected.append(address)
        raise OSError("not here")

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(socket, "create_connection", connect)
    with guarded_pool() as pool, pytest.raises(httpcore.ConnectError):
        pool.request("GET", "http://rebinding.example/")
    assert (connected, answers) == ([("8.8.8.8", 80)], ["127.0.0.1"])


def test_the_next_address_is_tried_where_one_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as running:
        port = int(running.url.split(":")[2].split("/")[0])
        both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.9", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: both)
        with guarded_pool(["127.0.0.0/8"]) as pool:
            answer = pool.request("POST", f"http://two.example:{port}/", headers={"Content-Length": "0"})
    assert answer.status == 200


def test_however_many_addresses_a_name_has_they_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"9.9.9.{number}", 80)) for number in range(200)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
    waited: list[float] = []

    def connect(_address: tuple[str, int], timeout: float, **_options: Any) -> Any:
        waited.append(timeout)
        time.sleep(min(timeout, 0.2))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    limits = {"timeout": {"connect": 15.0}}
    with guarded_pool(total_seconds=1.0) as pool, pytest.raises(httpcore.ConnectTimeout):
        pool.request("GET", "http://many.example/", extensions=limits)
    assert len(waited) <= 6
    assert max(waited) <= 1.0


@pytest.mark.parametrize("bad", ["10.0.0.1", "168.63.129.16"])
def test_one_bad_address_among_good_ones_is_enough(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", bad)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: both)
    with guarded_pool() as pool, pytest.raises(AddressRefused):
        pool.request("GET", "http://mixed.example/")

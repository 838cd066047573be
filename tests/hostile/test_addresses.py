"""Addresses inside, spelled in every way that some resolver or client takes: refused when they are named."""

import json

import pytest

from tests.hostile.conftest import Server
from tests.hostile.wire import post

LOOPBACK = {
    "dotted": "127.0.0.1",
    "one number": "2130706433",
    "hexadecimal": "0x7f000001",
    "octal": "017700000001",
    "octal parts": "0177.0.0.1",
    "hexadecimal parts": "0x7f.0.0.1",
    "two parts": "127.1",
    "three parts": "127.0.1",
    "a dot at the end": "127.0.0.1.",
    "full-width digits": "１２７.0.0.1",
    "IPv6": "[::1]",
    "IPv4-mapped": "[::ffff:127.0.0.1]",
    "IPv4-compatible": "[::127.0.0.1]",
    "NAT64": "[64:ff9b::7f00:1]",
    "6to4": "[2002:7f00:1::]",
    "unspecified": "0",
    "metadata service": "2852039166",
}


@pytest.mark.parametrize("host", LOOPBACK.values(), ids=LOOPBACK)
def test_a_webhook_to_an_address_inside_is_refused_when_it_is_named(server: Server, host: str) -> None:
    answer = server.ask(post("/v1/webhook-endpoints", json.dumps({"url": f"https://{host}/hook"}).encode()))
    assert (answer.status, answer.json()["code"]) == (422, "source_forbidden")


@pytest.mark.parametrize("host", ["example.com", "8.8.8.8", "[2606:4700:4700::1111]", "134744072", "7f.example"])
def test_an_address_outside_or_a_name_is_not(server: Server, host: str) -> None:
    answer = server.ask(post("/v1/webhook-endpoints", json.dumps({"url": f"https://{host}/hook"}).encode()))
    # This service has no key to seal the endpoint's secret with, which is what it says.
    assert answer.status == 503

"""Whom the pods of the chart may call, and who may call them, as its network policies say."""

from ipaddress import ip_address, ip_network

import pytest

from tests.deploy.chart import EVERYTHING, Manifest, of_kind, pods, rendered

PRIVATE = [
    "10.1.2.3",
    "172.20.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "127.0.0.1",
    "::1",
    "fd00::1",
    "fe80::1",
]
SERVERS = {"database": ("10.20.0.5", 5432), "broker": ("10.20.0.6", 6379), "store": ("192.168.7.7", 443)}
OUTSIDE = ("93.184.216.34", 443)
VALUES = "networkPolicy.store.to[0].ipBlock.cidr=192.168.7.7/32"


def policies_of(component: str, manifests: list[Manifest]) -> list[Manifest]:
    """The specifications of the policies that select the pods of this component."""
    labels = next(template["metadata"]["labels"] for name, template in pods(manifests) if name == component)
    return [
        policy["spec"]
        for policy in of_kind("NetworkPolicy", manifests).values()
        if policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
        and all(
            labels.get(expression["key"]) in expression["values"]
            for expression in policy["spec"]["podSelector"].get("matchExpressions", [])
        )
    ]


def reaches(component: str, address: str, port: int) -> bool:
    for policy in policies_of(component, rendered(EVERYTHING, VALUES)):
        for rule in policy.get("egress", []):
            ports = [each["port"] for each in rule["ports"] if each["protocol"] == "TCP"]
            blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            if port in ports and any(_in(address, block) for block in blocks):
                return True
    return False


def _in(address: str, block: Manifest) -> bool:
    return _is_inside(address, block["cidr"]) and not any(
        _is_inside(address, network) for network in block.get("except", [])
    )


def _is_inside(address: str, network: str) -> bool:
    return ip_address(address) in ip_network(network)


@pytest.mark.parametrize(
    ("component", "reached"),
    [
        ("api", {"database", "store"}),
        ("worker", {"database", "broker", "store", "outside"}),
        ("scheduler", {"database", "broker", "store", "outside"}),
        ("migration", {"database"}),
    ],
)
def test_every_process_reaches_what_it_uses_and_no_more(component: str, reached: set[str]) -> None:
    places = {**SERVERS, "outside": OUTSIDE}
    assert {name for name, place in places.items() if reaches(component, *place)} == reached


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_open_to_the_internet_is_not_open_to_private_networks(address: str) -> None:
    assert not reaches("worker", address, 443)
    assert not reaches("worker", address, 80)


def test_only_the_api_is_called_and_only_from_where_values_say() -> None:
    manifests = rendered(EVERYTHING)
    for component, _ in pods(manifests):
        policies = policies_of(component, manifests)
        assert any("Ingress" in policy["policyTypes"] for policy in policies), component
        rules = [rule for policy in policies for rule in policy.get("ingress") or []]
        if component == "api":
            (rule,) = rules
            names = [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]]
            assert names == ["ingress-nginx", "monitoring"]
        else:
            assert rules == [], component

"""Which network addresses the service may connect to on somebody's word: public ones, and networks that are allowed."""

import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import inet_aton

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Ways around IPv4 rules that count as global themselves: NAT64 (RFC 6052, RFC 8215) and IPv4-compatible addresses.
TRANSLATED = tuple(ip_network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
# Python calls them public, though they are in the registries of special purposes (RFC 6890): protocol assignments,
# where Oracle's cloud has its metadata; AS112 (RFC 7534, RFC 7535); multicast tunnels (RFC 7450); 6to4 relays
# (RFC 7526); site-local addresses (RFC 3879); those for documentation (RFC 9637).
SPECIAL = (
    "192.0.0.0/24", "192.31.196.0/24", "192.175.48.0/24", "2620:4f:8000::/48", "192.52.193.0/24", "192.88.99.0/24",
    "fec0::/10", "3fff::/20",
)  # fmt: skip
# Public addresses at which clouds answer their own machines: metadata and agents of Azure, metadata of Equinix Metal,
# services of IBM Cloud. Other clouds have link-local, shared or private ones.
CLOUDS = ("168.63.129.16/32", "192.80.8.124/32", "161.26.0.0/16", "166.8.0.0/14")
NOT_PUBLIC = tuple(ip_network(each) for each in (*SPECIAL, *CLOUDS))
# The interface identifiers of ISATAP (RFC 5214), which end in an IPv4 address.
ISATAP = {0x00005EFE, 0x02005EFE}


def may_connect(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether the address is public, or lies in an allowed network.

    Private, loopback, link-local, multicast and reserved addresses are not, nor those at which a cloud answers its own
    machines, nor any form of IPv6 that carries an IPv4 address inside (mapped, 6to4, Teredo, NAT64, ISATAP): what it
    reaches is decided elsewhere.
    """
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv6Address):
        is_isatap = int(address) >> 32 & 0xFFFFFFFF in ISATAP
        carries = address.ipv4_mapped or address.sixtofour or address.teredo or is_isatap
        if carries or any(address in network for network in TRANSLATED):
            return False
    is_named = any(address in network for network in NOT_PUBLIC)
    return address.is_global and not (is_named or address.is_multicast or address.is_reserved)


def literal_address(host: str) -> Address | None:
    """The address that a host name spells out in any form that a resolver takes for one, or None for a name.

    Resolvers take numbers of one to four parts, decimal, octal or hexadecimal (`127.1`, `0x7f000001`), and clients
    turn digits of other scripts into ASCII before they ask (IDNA).
    """
    plain = unicodedata.normalize("NFKC", host).strip("[]").rstrip(".")
    with suppress(ValueError):
        return ip_address(plain)
    try:
        return ip_address(inet_aton(plain))
    except (OSError, ValueError):
        return None

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
# Python calls them public: 6to4 relays (RFC 7526), site-local addresses (RFC 3879), those for documentation (RFC 9637).
NOT_PUBLIC = tuple(ip_network(each) for each in ("192.88.99.0/24", "fec0::/10", "3fff::/20"))


def may_connect(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether the address is public, or lies in an allowed network.

    Private, loopback, link-local, multicast and reserved addresses are not, nor is any form of IPv6 that carries an
    IPv4 address inside (mapped, 6to4, Teredo, NAT64): what it reaches is decided elsewhere.
    """
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv6Address):
        carries = address.ipv4_mapped or address.sixtofour or address.teredo
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

"""Which IP addresses a fetch may connect to: global unicast ones, and networks that the operator names.

The special-purpose ranges are listed here and not taken from `ipaddress.is_global`, whose answers differ between
Python releases and which calls multicast global. Source: IANA's IPv4 and IPv6 Special-Purpose Address Registries.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers (CGNAT)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host service: global by number, inside by nature
        "169.254.0.0/16",  # link-local, with the clouds' metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, with broadcast
    )
)
GLOBAL_V6 = IPv6Network("2000::/3")
"""All that is assigned for global unicast. Loopback, unique-local, link-local, multicast, IPv4 in IPv6
(`::ffff:0:0/96`) and NAT64 (`64:ff9b::/96`) lie outside."""
NOT_PUBLIC_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation
    )
)


class AddressGuard:
    """Tells for single addresses whether they may be connected to."""

    def __init__(self, own_networks: Iterable[Network]) -> None:
        self._own = tuple(own_networks)

    def allows(self, text: str) -> bool:
        """Whether `text` is an address, and a public one or one of the operator's own networks."""
        try:
            address = ip_address(text)
        except ValueError:
            return False
        if any(address in network for network in self._own):
            return True
        if isinstance(address, IPv4Address):
            return not any(address in network for network in NOT_PUBLIC_V4)
        return address in GLOBAL_V6 and not any(address in network for network in NOT_PUBLIC_V6)

"""Public IP addresses, of both versions. Private, loopback and documentation addresses are nobody's."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from reward.rules.pii.base import is_alone
from reward.types import Span

_LIKE_ONE: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f:]{3,39}", re.IGNORECASE)
_LONGEST: Final = 39


@dataclass(frozen=True, slots=True)
class IpAddress:
    name: str = "ip_address"
    version: str = "1"
    longest: int = _LONGEST

    def may_hold(self, character: str) -> bool:
        return character in "0123456789abcdefABCDEF:."

    def find(self, text: str) -> Iterator[Span]:
        at = 0
        while (found := _next(text, at)) is not None:
            start, end = found
            if _is_public(text[start:end]) and is_alone(text, start, end) and not _goes_on(text, start, end):
                yield start, end
            at = end


def _next(text: str, at: int) -> Span | None:
    """The next run that might be an address."""
    found = _LIKE_ONE.search(text, at)
    if found is None:
        return None
    start, end = found.span()
    if text[end - 1] == ":" and not text.endswith("::", start, end):  # "the address 2a00::1: it ..."
        end -= 1
    return start, end


def _goes_on(text: str, start: int, end: int) -> bool:
    """Part of a longer run: a version with five numbers, a path in a program."""
    before, behind = text[max(0, start - 1) : start], text[end : end + 2]
    return before in {".", ":"} or (behind[:1] == "." and behind[1:].isdigit()) or behind == "::"


def _is_public(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address.is_global and address in _UNICAST
    return address.is_global


_UNICAST: Final = ipaddress.ip_network("2000::/3")

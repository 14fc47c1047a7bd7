"""Credit card numbers: the issuers' prefixes and lengths, and the Luhn checksum (ISO/IEC 7812-1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from reward.rules.pii.base import is_alone
from reward.types import Span

_DIGITS: Final = re.compile(r"[0-9]+")
_MAX_DIGITS: Final = 19
_ISSUERS: Final = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa: 13, 16, 19
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|3(?:0[0-5]|[68][0-9])[0-9]{11}"  # Diners Club
    r"|(?:6011|65[0-9]{2}|64[4-9][0-9])[0-9]{12}(?:[0-9]{3})?"  # Discover
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # JCB
    r"|62[0-9]{14,17}"  # UnionPay
)


def luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@dataclass(frozen=True, slots=True)
class CreditCard:
    """Whole groups of digits that spaces or hyphens keep apart, one between two groups."""

    name: str = "credit_card"
    version: str = "1"
    longest: int = 2 * _MAX_DIGITS - 1

    def may_hold(self, character: str) -> bool:
        return character in "0123456789 -"

    def find(self, text: str) -> Iterator[Span]:
        groups = [found.span() for found in _DIGITS.finditer(text)]
        at = 0
        while at < len(groups):
            count = self._longest_card(text, groups, at)
            if count:
                yield groups[at][0], groups[at + count - 1][1]
            at += count or 1

    def _longest_card(self, text: str, groups: list[Span], first: int) -> int:
        """Of how many groups, beginning with this one; 0: none."""
        digits, best = "", 0
        for count, (start, end) in enumerate(groups[first : first + _MAX_DIGITS], 1):
            if count > 1 and text[groups[first + count - 2][1] : start] not in {" ", "-"}:
                break
            digits += text[start : min(end, start + _MAX_DIGITS + 1)]
            if len(digits) > _MAX_DIGITS:
                break
            if _ISSUERS.fullmatch(digits) and luhn(digits) and is_alone(text, groups[first][0], end):
                best = count
        return best

"""Phone numbers: international (E.164, after + or 00), North American, and national with a leading zero.

Without a country's numbering plan a national number is told by its length and its grouping alone, so some long numbers
in groups that begin with a zero are found too, and numbers written in one piece without a prefix are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from reward.types import Span

_FORMS: Final = re.compile(
    r"(?P<international>(?:\+|00)[ ]?[1-9](?:[ .()/-]{0,2}[0-9]){6,14})"
    r"|(?P<american>\(?[2-9][0-9]{2}\)?[ .-]{1,2}[2-9][0-9]{2}[ .-][0-9]{4})"
    r"|(?P<pairs>0[1-9](?:(?:[ ][0-9]{2}){4}|(?:[.][0-9]{2}){4}))"
    r"|(?P<national>\(?0[0-9]{2,4}\)?[ /-][0-9]{3,8}(?:[ -][0-9]{2,6}){0,3})"
)
_DIGITS: Final = {"international": (8, 17), "american": (10, 10), "pairs": (10, 10), "national": (9, 11)}
"""With the 00, where there is one."""


@dataclass(frozen=True, slots=True)
class Phone:
    name: str = "phone"
    version: str = "1"
    longest: int = 48

    def may_hold(self, character: str) -> bool:
        return character in "0123456789+ .()/-"

    def find(self, text: str) -> Iterator[Span]:
        at = 0
        while (found := _FORMS.search(text, at)) is not None:
            if _is_number(text, found):
                yield found.span()
                at = found.end()
            else:
                at = found.start() + 1


def _is_number(text: str, found: re.Match[str]) -> bool:
    fewest, most = _DIGITS[str(found.lastgroup)]
    digits = sum(one.isdigit() for one in found[0])
    before, behind = text[max(0, found.start() - 1) : found.start()], text[found.end() : found.end() + 1]
    return fewest <= digits <= most and not (before.isalnum() or before in {"+", "."}) and not behind.isalnum()

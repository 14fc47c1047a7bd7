"""International bank account numbers (ISO 13616): the country's length, and the checksum modulo 97."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from reward.types import Span

LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SD": 18,
    "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22,
    "VG": 24, "XK": 20,
}  # fmt: skip
_OPENING: Final = re.compile(r"(?<![^\W_])[A-Z]{2} ?[0-9]{2}", re.IGNORECASE | re.ASCII)
_REST: Final = re.compile(r"[A-Z0-9 -]{0,64}", re.IGNORECASE | re.ASCII)


def checksum_holds(iban: str) -> bool:
    """`iban` in capitals, without spaces."""
    digits = "".join(str(int(one, 36)) for one in iban[4:] + iban[:4])
    return int(digits) % 97 == 1


@dataclass(frozen=True, slots=True)
class Iban:
    """Written in one piece, or in groups with a single space or hyphen between two characters."""

    name: str = "iban"
    version: str = "1"
    longest: int = 2 * max(LENGTHS.values())

    def may_hold(self, character: str) -> bool:
        return character.isascii() and (character.isalnum() or character in " -")

    def find(self, text: str) -> Iterator[Span]:
        at = 0
        while (found := _OPENING.search(text, at)) is not None:
            end = self._end(text, found.start())
            if end:
                yield found.start(), end
            at = end or found.start() + 1

    def _end(self, text: str, start: int) -> int:
        """Behind the number that begins here; 0 where none does."""
        length = LENGTHS.get(text[start : start + 2].upper())
        written = _REST.match(text, start)
        if length is None or written is None:
            return 0
        characters: list[str] = []
        for place, character in enumerate(written[0]):
            if character.isalnum():
                characters.append(character.upper())
            elif place and not written[0][place - 1].isalnum():
                return 0
            if len(characters) == length:
                end = start + place + 1
                is_whole = end == len(text) or not text[end].isalnum()
                return end if is_whole and checksum_holds("".join(characters)) else 0
        return 0

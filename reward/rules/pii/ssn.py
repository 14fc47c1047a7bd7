"""Social security numbers of the United States, with their hyphens; numbers that are never given out are none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from reward.types import Span

_FORM: Final = re.compile(
    r"(?<![\w-])(?!000|666|9[0-9]{2})[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w]|-[0-9])",
)


@dataclass(frozen=True, slots=True)
class SocialSecurityNumber:
    name: str = "us_ssn"
    version: str = "1"
    longest: int = 12

    def may_hold(self, character: str) -> bool:
        return character in "0123456789-"

    def find(self, text: str) -> Iterator[Span]:
        return (found.span() for found in _FORM.finditer(text))

"""What a class of personal data promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from reward.types import Span


class PiiClass(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever something else is found."""
        ...

    @property
    def longest(self) -> int:
        """Characters of the longest thing that is found."""
        ...

    def may_hold(self, character: str) -> bool:
        """Whether the character may be part of one. What may not be ends every one."""
        ...

    def find(self, text: str) -> Iterator[Span]:
        """From left to right, none overlapping another. Whether one is there depends on the characters next to it too,
        and on nothing beyond them.
        """
        ...


def is_alone(text: str, start: int, end: int) -> bool:
    """Whether no letter or digit stands right before or behind."""
    return not (start and text[start - 1].isalnum()) and not (end < len(text) and text[end].isalnum())

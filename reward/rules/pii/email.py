"""Email addresses (RFC 5321's lengths; unquoted, with letters of any alphabet)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from reward.types import Span

_LOCAL_PUNCTUATION: Final = frozenset("._%+-'")
_MAX_LOCAL: Final = 64
_MAX_DOMAIN: Final = 253
_LABEL: Final = re.compile(r"[^\W_](?:[^\W_]|-(?=[^\W_]|-)){0,62}")
_TOP_LABEL: Final = re.compile(r"[^\W\d_]{2,24}|xn--[a-z0-9-]{1,59}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Email:
    name: str = "email"
    version: str = "1"
    longest: int = _MAX_LOCAL + 1 + _MAX_DOMAIN

    def may_hold(self, character: str) -> bool:
        return character.isalnum() or character in _LOCAL_PUNCTUATION or character == "@"

    def find(self, text: str) -> Iterator[Span]:
        done = 0
        at = text.find("@")
        while at != -1:
            start, end = self._start(text, at, done), self._end(text, at + 1)
            if start < at and end > at + 1:
                yield start, end
                done = end
            at = text.find("@", max(at + 1, done))

    def _start(self, text: str, at: int, done: int) -> int:
        start = at
        while start > max(done, at - _MAX_LOCAL) and (
            text[start - 1].isalnum() or text[start - 1] in _LOCAL_PUNCTUATION
        ):
            start -= 1
        while start < at and text[start] in "._'-":
            start += 1
        return at if text[at - 1] == "." else start

    def _end(self, text: str, begin: int) -> int:
        """Behind the domain; `begin` where there is none."""
        end = begin
        while end < min(len(text), begin + _MAX_DOMAIN) and (text[end].isalnum() or text[end] in ".-"):
            end += 1
        labels = text[begin:end].rstrip(".-").split(".")
        while len(labels) > 1 and not _TOP_LABEL.fullmatch(labels[-1]):
            labels.pop()
        if len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels):
            return begin
        return begin + len(".".join(labels))

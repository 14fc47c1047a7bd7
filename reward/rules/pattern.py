"""A regular expression that must not occur, matched in linear time by RE2 (https://github.com/google/re2)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import re2

from reward.rules import width
from reward.types import Action, Span, Verdict


@dataclass(frozen=True, slots=True)
class PatternRule:
    """Applies where `pattern` (RE2 syntax, case ignored) is found.

    Raises `ValueError` for a pattern that RE2 refuses, and, with `redact`, for one that has no longest match or matches
    nothing at all: its matches could not be told in linear time, nor in a growing text.
    """

    name: str
    pattern: str
    action: Action = Action.BLOCK
    _compiled: Any = field(init=False, repr=False, compare=False)
    _reach: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        try:
            compiled = re2.compile(self.pattern, options)
        except re2.error as error:
            raise ValueError(f"rule {self.name}: RE2 refuses the pattern: {error}") from error
        object.__setattr__(self, "_compiled", compiled)
        if self.action is not Action.REDACT:
            object.__setattr__(self, "_reach", width.reach(self.pattern))
            return
        longest = width.longest(self.pattern)
        if longest is None:
            raise ValueError(f"rule {self.name}: redact needs a pattern with a longest match ({{0,40}} in place of *)")
        if compiled.search("") is not None:
            raise ValueError(f"rule {self.name}: the pattern matches an empty text, which cannot be redacted")
        object.__setattr__(self, "_reach", longest)

    @property
    def version(self) -> str:
        return hashlib.sha256(self.pattern.encode()).hexdigest()[:8]

    @property
    def reach(self) -> int | None:
        return self._reach

    def check(self, text: str) -> Verdict:
        spans = tuple(self._spans(text))
        if not spans:
            return Verdict(self.name, self.version, Action.ALLOW)
        return Verdict(self.name, self.version, self.action, "the pattern occurs", spans)

    def _spans(self, text: str) -> Iterator[Span]:
        if self.action is Action.REDACT:
            yield from (found.span() for found in self._compiled.finditer(text) if found.end() > found.start())
        elif (found := self._compiled.search(text)) is not None:
            yield found.span()

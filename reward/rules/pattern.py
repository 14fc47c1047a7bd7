"""A regular expression that must not occur, matched in linear time by RE2 (https://github.com/google/re2)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import re2

from reward.rules import width
from reward.types import Action, Verdict


@dataclass(frozen=True, slots=True)
class PatternRule:
    """Applies where `pattern` (RE2 syntax, case ignored) is found. A pattern that RE2 refuses raises ValueError."""

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
        object.__setattr__(self, "_reach", width.reach(self.pattern))

    @property
    def version(self) -> str:
        return hashlib.sha256(self.pattern.encode()).hexdigest()[:8]

    @property
    def reach(self) -> int | None:
        return self._reach

    def check(self, text: str) -> Verdict:
        found = self._compiled.search(text) is not None
        action = self.action if found else Action.ALLOW
        return Verdict(self.name, self.version, action, "the pattern occurs" if found else "")

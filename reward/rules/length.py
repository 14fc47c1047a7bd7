"""A text must not be longer than a number of characters."""

from __future__ import annotations

from dataclasses import dataclass

from reward.types import Action, Verdict


@dataclass(frozen=True, slots=True)
class LengthRule:
    name: str
    max_chars: int
    action: Action = Action.BLOCK

    @property
    def version(self) -> str:
        return str(self.max_chars)

    @property
    def reach(self) -> int:
        """It forbids no words: what went before it applied was within the rule."""
        return 0

    def check(self, text: str) -> Verdict:
        if len(text) <= self.max_chars:
            return Verdict(self.name, self.version, Action.ALLOW)
        return Verdict(self.name, self.version, self.action, f"longer than {self.max_chars} characters")

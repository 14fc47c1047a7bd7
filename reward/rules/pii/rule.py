"""Personal data must not occur."""

from __future__ import annotations

from dataclasses import dataclass

from reward.rules.pii.base import PiiClass
from reward.types import Action, Span, Verdict

MARGIN = 2
"""Characters behind a find that still decide whether it is one."""


@dataclass(frozen=True, slots=True)
class PiiRule:
    """Applies where one of `classes` finds something."""

    name: str
    classes: tuple[PiiClass, ...]
    action: Action = Action.BLOCK

    @property
    def version(self) -> str:
        return " ".join(f"{one.name}-{one.version}" for one in self.classes)

    @property
    def reach(self) -> int:
        return max(one.longest for one in self.classes) + MARGIN

    def settled(self, text: str) -> int:
        """Before the run of characters at the end that might yet become, or go on in, one of the classes."""
        return min((_open_run(one, text) for one in self.classes), default=len(text))

    def check(self, text: str) -> Verdict:
        found = {one.name: list(one.find(text)) for one in self.classes}
        spans: list[Span] = sorted(span for each in found.values() for span in each)
        if not spans:
            return Verdict(self.name, self.version, Action.ALLOW)
        kinds = ", ".join(name for name, each in found.items() if each)
        return Verdict(self.name, self.version, self.action, f"holds {kinds}", tuple(spans))


def _open_run(one: PiiClass, text: str) -> int:
    lowest = max(0, len(text) - one.longest - MARGIN)
    at = len(text)
    while at > lowest and one.may_hold(text[at - 1]):
        at -= 1
    return at

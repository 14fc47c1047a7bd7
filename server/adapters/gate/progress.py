"""How far a running gate is, for the people who wait for it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """One run: its present check, and how many of that check's questions are answered."""

    adapter: str
    checks: int
    number: int = 0
    check: str = ""
    done: int = 0
    total: int = 0

    def begin(self, check: str) -> None:
        """The next check begins."""
        self.number += 1
        self.check, self.done, self.total = check, 0, 0
        log.info("gate of %s: %s (%d of %d)", self.adapter, check, self.number, self.checks)

    def count(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def __str__(self) -> str:
        asked = f", {self.done} of {self.total} asked" if self.total else ""
        return f"gate: {self.check}, check {self.number} of {self.checks}{asked}"

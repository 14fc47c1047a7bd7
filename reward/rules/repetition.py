"""A text must not say the same sentence over and over."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from reward.types import Action, Verdict

SENTENCE_END = re.compile(r"[.!?\n]")


def most_repeats(text: str) -> int:
    """How often the most frequent sentence occurs (case and surrounding space ignored)."""
    sentences = (sentence.strip().lower() for sentence in SENTENCE_END.split(text))
    return max(Counter(sentence for sentence in sentences if sentence).values(), default=0)


@dataclass(frozen=True, slots=True)
class RepetitionRule:
    name: str
    max_repeats: int
    action: Action = Action.BLOCK

    @property
    def version(self) -> str:
        return str(self.max_repeats)

    @property
    def reach(self) -> int:
        """It forbids no words: what went before it applied was within the rule."""
        return 0

    def check(self, text: str) -> Verdict:
        if most_repeats(text) <= self.max_repeats:
            return Verdict(self.name, self.version, Action.ALLOW)
        return Verdict(self.name, self.version, self.action, f"one sentence occurs over {self.max_repeats} times")

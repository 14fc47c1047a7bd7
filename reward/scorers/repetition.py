"""Answers that repeat their sentences lose: 1 − how often the most frequent one occurs."""

from __future__ import annotations

from collections.abc import Sequence

from reward.rules.repetition import most_repeats
from reward.types import Candidate, Prompt


class RepetitionScorer:
    name = "repetition"
    version = "1"

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [float(1 - max(1, most_repeats(one.text))) for one in candidates]

"""Answers that repeat themselves lose: 1 − how often the most frequent sentence occurs, less the share of runs of
four words that were there before (which also finds loops without a full stop).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward.rules.repetition import most_repeats
from reward.types import Candidate, Prompt

RUN = 4


@dataclass(frozen=True, slots=True)
class RepetitionScorer:
    name: str = "repetition"
    version: str = "2"

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [float(1 - max(1, most_repeats(one.text))) - _repeated_runs(one.text) for one in candidates]


def _repeated_runs(text: str) -> float:
    words = text.casefold().split()
    runs = [tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0

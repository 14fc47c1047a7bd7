"""The policy's own confidence: mean log-probability per token, free from generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward.types import Candidate, Prompt


@dataclass(frozen=True, slots=True)
class LogprobScorer:
    name: str = "logprob"
    version: str = "1"

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [sum(one.logprobs) / len(one.logprobs) if one.logprobs else None for one in candidates]

"""Answers longer than a target lose in proportion: −max(0, tokens / target − 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward.types import Candidate, Prompt


@dataclass(frozen=True, slots=True)
class LengthScorer:
    target_tokens: int
    name: str = "length"

    @property
    def version(self) -> str:
        return str(self.target_tokens)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [-max(0.0, len(one.token_ids) / self.target_tokens - 1.0) for one in candidates]

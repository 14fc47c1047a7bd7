"""Self-certainty: how far the policy was from guessing, averaged over the answer's tokens. Free from generation.

Source: Kang, Zhao and Song 2025, "Scalable Best-of-N Selection for Large Language Models via Self-Certainty"
(arXiv 2502.18581), eq. 8: the KL divergence from the uniform distribution to the policy's, mean over the tokens.

Deviation: 1. An engine reports the k likeliest tokens, not the vocabulary. The sums run over those k, with 1/k and
log k in place of 1/V and log V: −(1/k) Σ log p_j − log k, which is 0 where k tokens share the mass evenly and grows
as one token takes it all. Values for different k cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reward.types import Candidate, Prompt

FLOOR = -50.0
"""Log-probabilities below count as this: an engine writes −9999 for what a grammar forbids."""


@dataclass(frozen=True, slots=True)
class SelfCertaintyScorer:
    """Reads the first `top_k` of `Candidate.alternatives`; a candidate without them cannot be scored."""

    top_k: int = 10
    name: str = "self_certainty"

    @property
    def version(self) -> str:
        return str(self.top_k)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [self._certainty(one) for one in candidates]

    def _certainty(self, candidate: Candidate) -> float | None:
        positions = candidate.alternatives
        if not positions or any(len(one) < self.top_k for one in positions):
            return None
        total = math.fsum(max(value, FLOOR) for one in positions for value in one[: self.top_k])
        return -total / (self.top_k * len(positions)) - math.log(self.top_k)

"""DPO's implicit reward: β (log π_adapter − log π_base), summed over the answer's text tokens.

Source: Rafailov et al. 2023 (arXiv 2305.18290), eq. 5. The adapter's half is free from generation; the base
model's half is one prefill, asked for through the injected function and kept for each answer: it does not depend on
the adapter. For an answer of the base model itself it is 0. The end-of-turn token is left out of both halves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reward.scorers.cache import Cache, prompt_key
from reward.types import Candidate, Prompt

Scored = tuple[tuple[int, ...], tuple[float, ...]]
"""Token ids as the engine encodes an answer, and the base model's log-probability of each."""
BaseLogprobs = Callable[[Prompt, str], Awaitable[Scored]]
"""(prompt, answer) → the answer under the base model."""
KEPT_ANSWERS = 4096
"""Answers whose base half is kept: of 300 tokens each, about 20 MB."""


def _kept() -> Cache[tuple[bytes, str], Scored]:
    return Cache(KEPT_ANSWERS)


@dataclass(frozen=True, slots=True)
class ImplicitScorer:
    base_logprobs: BaseLogprobs
    base_name: str
    beta: float = 0.1
    name: str = "implicit"
    kept: Cache[tuple[bytes, str], Scored] = field(default_factory=_kept, repr=False, compare=False)

    @property
    def version(self) -> str:
        return f"{self.beta:g}"

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        # Candidates that say the same share the base model's half.
        texts = list({one.text for one in candidates if one.adapter != self.base_name and one.text})
        key = prompt_key(prompt) if texts else b""
        halves = await asyncio.gather(*(self._half(key, prompt, text) for text in texts))
        base = dict(zip(texts, halves, strict=True))
        return [self._score_one(one, base) for one in candidates]

    async def _half(self, key: bytes, prompt: Prompt, text: str) -> Scored:
        half = self.kept.get((key, text))
        if half is None:
            half = await self.base_logprobs(prompt, text)
            self.kept.put((key, text), half)
        return half

    def _score_one(self, candidate: Candidate, base: Mapping[str, Scored]) -> float | None:
        if candidate.adapter == self.base_name:
            return 0.0
        if not candidate.text:
            return None
        ids, logprobs = base[candidate.text]
        # Text that is encoded again can differ from the ids that were sampled; then the two halves do not match.
        if candidate.token_ids[: len(ids)] != ids:
            return None
        return self.beta * (sum(candidate.logprobs[: len(ids)]) - sum(logprobs))

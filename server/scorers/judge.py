"""A model as a judge over an OpenAI-style chat endpoint: a mark for each answer, or comparisons of two.

Comparisons are asked in both orders and count half each, so that a judge that favours a place says "tie"; who meets
whom is bounded (`reward/scorers/tournament.py`). Equal answers are judged once, verdicts are kept, and requests are
bounded over all prompts. A reply that is no verdict leaves that answer (or comparison) without one; an endpoint that
fails, fails the scorer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256

from reward.scorers.cache import Cache, prompt_key
from reward.scorers.tournament import next_round, strengths
from reward.types import Candidate, Prompt
from server.config.scorers import JudgeConfig
from server.json_endpoint import JsonEndpoint
from server.scorers import judging
from server.scorers.errors import ScorerError
from server.scorers.gathering import all_of

_CHAT = "/chat/completions"


class JudgeScorer:
    def __init__(self, config: JudgeConfig, endpoint: JsonEndpoint, name: str = "judge") -> None:
        self.name = name
        settings = config.model_dump_json(include={"model", "mode", "criteria", "scale", "images", "structured"})
        self.version = sha256(settings.encode()).hexdigest()[:12]
        self._config = config
        self._endpoint = endpoint
        self._free = asyncio.Semaphore(config.max_concurrent)
        self._kept: Cache[tuple[bytes, tuple[str, ...]], float] = Cache(config.cache_size)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        """`pointwise`: 0 to 1. `pairwise`: log-strength, 0 for an average answer; nothing for one that stands alone."""
        if self._config.mode == "pairwise" and len(candidates) == 1:
            return [None]
        texts = list(dict.fromkeys(one.text for one in candidates))
        compares = self._config.mode == "pairwise"
        values = await (self._compare_all(prompt, texts) if compares else self._mark_all(prompt, texts))
        found = dict(zip(texts, values, strict=True))
        return [found[one.text] for one in candidates]

    async def _mark_all(self, prompt: Prompt, texts: Sequence[str]) -> list[float | None]:
        key = prompt_key(prompt)
        return await all_of(self._verdict(key, prompt, (text,)) for text in texts)

    async def _compare_all(self, prompt: Prompt, texts: Sequence[str]) -> list[float | None]:
        key = prompt_key(prompt)
        results: dict[tuple[int, int], float] = {}
        void: set[tuple[int, int]] = set()
        while pairs := next_round(len(texts), results, self._config.max_comparisons):
            found = await all_of(self._compare(key, prompt, texts[a], texts[b]) for a, b in pairs)
            for pair, points in zip(pairs, found, strict=True):
                if points is None:
                    void.add(pair)
                results[pair] = 0.5 if points is None else points
        if results and len(void) == len(results):
            raise ScorerError("the judge gave no verdict")
        played = {pair: points for pair, points in results.items() if pair not in void}
        met = {one for pair in played for one in pair}
        values = strengths(len(texts), played)
        alone = len(texts) == 1
        return [value if alone or place in met else None for place, value in enumerate(values)]

    async def _compare(self, key: bytes, prompt: Prompt, one: str, other: str) -> float | None:
        """Points of the first, from both orders; None where either is no verdict."""
        forth, back = await all_of(self._verdict(key, prompt, pair) for pair in ((one, other), (other, one)))
        return None if forth is None or back is None else (forth + 1 - back) / 2

    async def _verdict(self, key: bytes, prompt: Prompt, texts: tuple[str, ...]) -> float | None:
        kept = self._kept.get((key, texts))
        if kept is not None:
            return kept
        config = self._config
        async with self._free:
            if len(texts) == 1:
                reply = await self._endpoint.post(_CHAT, judging.pointwise_body(config, prompt, texts[0]))
            else:
                reply = await self._endpoint.post(_CHAT, judging.pairwise_body(config, prompt, *texts))
        try:
            value = judging.mark_from(reply, config) if len(texts) == 1 else judging.points_from(reply)
        except judging.NoVerdict:
            return None
        self._kept.put((key, texts), value)
        return value

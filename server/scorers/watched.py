"""Watches a scorer that somebody else runs: its failures are logged, and one that says the same of everything fails.

A broken reward model often still answers: with one number. Its ensemble would not notice, and choose by chance or by
habit. So a scorer that gave one and the same value to the last `WINDOW` different answers counts as failed, until it
says something else; it is asked all the while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b

from reward.ports import Scorer
from reward.scorers.cache import prompt_key
from reward.types import Candidate, Prompt
from server.json_endpoint import EndpointError
from server.scorers.errors import ScorerError

log = logging.getLogger(__name__)

WINDOW = 64
LOG_EVERY_S = 60.0


class Watched:
    """A scorer like the one inside. `counts`: whether what is said of a prompt tells anything of the scorer."""

    def __init__(self, scorer: Scorer, *, counts: Callable[[Prompt], bool] = lambda prompt: True) -> None:
        self._scorer = scorer
        self._counts = counts
        self._value: float | None = None
        self._answers: set[bytes] = set()
        self._logged_at: float | None = None

    @property
    def name(self) -> str:
        return self._scorer.name

    @property
    def version(self) -> str:
        return self._scorer.version

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        try:
            values = await self._scorer.score(prompt, candidates)
            if len(values) != len(candidates):
                raise ScorerError(f"{len(values)} values for {len(candidates)} answers")
            # Answers that are all the same may well get the same.
            if self._counts(prompt) and len({one.text for one in candidates}) > 1:
                self._require_opinion(prompt, candidates, values)
        except Exception as error:
            self._report(error)
            raise
        return values

    def _require_opinion(self, prompt: Prompt, candidates: Sequence[Candidate], values: Sequence[float | None]) -> None:
        key = prompt_key(prompt)
        for candidate, value in zip(candidates, values, strict=True):
            if value is None:
                continue
            if value != self._value:
                self._value, self._answers = value, set()
            if len(self._answers) < WINDOW:
                text = candidate.text.encode("utf-8", "surrogatepass")
                self._answers.add(blake2b(text, key=key, digest_size=16).digest())
        if len(self._answers) >= WINDOW:
            raise ScorerError(f"it said the same of the last {WINDOW} different answers")

    def _report(self, error: Exception) -> None:
        now = time.monotonic()
        if self._logged_at is None or now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            reason = str(error) if isinstance(error, ScorerError | EndpointError) else type(error).__name__
            log.warning("scorer %s: %s", self.name, reason)

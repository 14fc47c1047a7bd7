"""Combines scorers into one total for each candidate: a weighted sum. Fails open.

A scorer that raises, is late, or answers with the wrong number of values is left out for the whole group, and
its name is reported as degraded: all candidates of a group are compared by the same scorers. A single value
that is missing or not finite leaves that candidate without a total; it is chosen only when no other has one.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from reward.ports import Scorer
from reward.types import Candidate, Prompt, Score


@dataclass(frozen=True, slots=True)
class Member:
    """One scorer of the ensemble, its weight, and how long it may take."""

    scorer: Scorer
    weight: float = 1.0
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Scored:
    """One candidate's scores, the total (None: not one value) and the standard deviation of its parts."""

    scores: tuple[Score, ...]
    total: float | None
    disagreement: float


@dataclass(frozen=True, slots=True)
class Ensemble:
    members: tuple[Member, ...] = ()

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate]
    ) -> tuple[tuple[Scored, ...], tuple[str, ...]]:
        """One `Scored` for each candidate, and the names of the scorers that failed."""
        columns = await asyncio.gather(*(_ask(member, prompt, candidates) for member in self.members))
        degraded = tuple(
            member.scorer.name for member, column in zip(self.members, columns, strict=True) if column is None
        )
        return tuple(self._combine(columns, index) for index in range(len(candidates))), degraded

    def value(self, scores: Sequence[Score], *, without: tuple[type[Scorer], ...] = ()) -> float | None:
        """The total of an answer's scores without those of some kinds of scorers; None where one of the others is
        missing, or none is left.
        """
        if len(scores) != len(self.members):
            return None
        kept = [
            (member.weight, score.value)
            for member, score in zip(self.members, scores, strict=True)
            if not isinstance(member.scorer, without)
        ]
        if not kept or any(value is None for _, value in kept):
            return None
        return math.fsum(weight * value for weight, value in kept if value is not None)

    def _combine(self, columns: Sequence[list[float | None] | None], index: int) -> Scored:
        scores = tuple(
            Score(member.scorer.name, member.scorer.version, column[index] if column else None)
            for member, column in zip(self.members, columns, strict=True)
        )
        parts: list[float] = []
        for member, column in zip(self.members, columns, strict=True):
            if column is None:
                continue
            value = column[index]
            if value is None:
                return Scored(scores, None, 0.0)
            parts.append(member.weight * value)
        if not parts:
            return Scored(scores, None, 0.0)
        return Scored(scores, sum(parts), statistics.pstdev(parts))


async def _ask(member: Member, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None] | None:
    """The scorer's column of values, non-finite ones as None; None as a whole where the scorer failed."""
    try:
        async with asyncio.timeout(member.timeout_s):
            values = list(await member.scorer.score(prompt, candidates))
    except Exception:
        return None
    if len(values) != len(candidates):
        return None
    column = [value if value is not None and math.isfinite(value) else None for value in values]
    return None if candidates and all(value is None for value in column) else column

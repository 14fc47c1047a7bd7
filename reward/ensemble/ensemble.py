"""Combines scorers into one total for each candidate. Fails open.

A scorer that raises, is late, or answers with the wrong number of values is left out for the whole group, and
its name is reported as degraded: all candidates of a group are compared by the same scorers. A single value
that is missing or not finite leaves that candidate without a total; it is chosen only when no other has one.

Two numbers come of it, for two purposes. The total is for choosing among the candidates of one prompt: calibrated as
the scorers are known by then, combined as the alias says. The value is for comparing what was found at different times
(adapters, training data): the weighted sum of what the scorers said, in their own units. It never drifts.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from reward.ensemble.calibration import Calibration
from reward.ensemble.combining import Combiner, LengthPenalty, weighted, weighted_sum
from reward.ports import Scorer
from reward.types import Candidate, Prompt, Score

LARGEST: Final = 1e100
"""What is not finite, or so large that sums of it would not be, is no value."""


@dataclass(frozen=True, slots=True)
class Member:
    """One scorer of the ensemble, its weight, and how long it may take."""

    scorer: Scorer
    weight: float = 1.0
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Scored:
    """One candidate's scores, the total and the value (None: not one value, or one is missing) and the standard
    deviation of the total's parts.
    """

    scores: tuple[Score, ...]
    total: float | None
    value: float | None
    disagreement: float


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Without a calibration the scorers' own units are combined."""

    members: tuple[Member, ...] = ()
    combiner: Combiner = weighted_sum
    calibration: Calibration | None = None
    length_penalty: LengthPenalty | None = None

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, observe: bool = True
    ) -> tuple[tuple[Scored, ...], tuple[str, ...]]:
        """One `Scored` for each candidate, and the names of the scorers that failed. `observe`: the calibration learns
        from these candidates.
        """
        columns = await asyncio.gather(*(_ask(member, prompt, candidates) for member in self.members))
        named = list(zip(self.members, columns, strict=True))
        degraded = tuple(member.scorer.name for member, column in named if column is None)
        if observe and self.calibration is not None:
            for position, (member, column) in enumerate(named):
                values = [value for value in column or () if value is not None]
                self.calibration.of(position, member.scorer.version).observe(values)
        rows = [
            tuple(
                Score(member.scorer.name, member.scorer.version, column[index] if column else None)
                for member, column in named
            )
            for index in range(len(candidates))
        ]
        return self.combine(rows, candidates, degraded), degraded

    def recall(self, said: Sequence[Mapping[str, Sequence[object]]]) -> None:
        """Let the calibration learn from candidates that were scored before, oldest first: {scorer: (version, value)}
        each. What another version of a scorer said is passed over.
        """
        if self.calibration is None:
            return
        for position, member in enumerate(self.members):
            scorer = member.scorer
            found = [one[scorer.name] for one in said if scorer.name in one]
            values = [value for version, value in found if version == scorer.version and isinstance(value, float)]
            self.calibration.of(position, scorer.version).observe(values)

    def combine(
        self, rows: Sequence[tuple[Score, ...]], candidates: Sequence[Candidate], degraded: Collection[str]
    ) -> tuple[Scored, ...]:
        """The candidates' scores as totals that can be compared, whenever they were scored; without the scorers that
        failed for any of them.
        """
        return tuple(self._combine(row, one, degraded) for row, one in zip(rows, candidates, strict=True))

    def value(self, scores: Sequence[Score], *, without: tuple[type[Scorer], ...] = ()) -> float | None:
        """The weighted sum of an answer's scores, in the scorers' own units, without those of some kinds of scorers;
        None where one of the others is missing, or none is left. It means the same today and next year: no calibration,
        combiner or penalty enters it.
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

    def _combine(self, scores: tuple[Score, ...], candidate: Candidate, degraded: Collection[str]) -> Scored:
        kept = [
            (position, member.weight, score)
            for position, (member, score) in enumerate(zip(self.members, scores, strict=True))
            if member.scorer.name not in degraded
        ]
        values = [score.value for _, _, score in kept if score.value is not None]
        if not values or len(values) < len(kept):
            return Scored(scores, None, None, 0.0)
        weights = [weight for _, weight, _ in kept]
        units = [
            self.calibration.of(position, score.version).standardise(value) if self.calibration else value
            for (position, _, score), value in zip(kept, values, strict=True)
        ]
        penalty = self.length_penalty(len(candidate.token_ids)) if self.length_penalty else 0.0
        total = self.combiner(units, weights) - penalty
        return Scored(scores, total, weighted_sum(values, weights), statistics.pstdev(weighted(units, weights)))


async def _ask(member: Member, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None] | None:
    """The scorer's column of values, None in it for what is no usable number; None as a whole where it failed."""
    try:
        async with asyncio.timeout(member.timeout_s):
            values = await member.scorer.score(prompt, candidates)
            column = [value if value is not None and abs(value) <= LARGEST else None for value in values]
    except Exception:
        return None
    if len(column) != len(candidates):
        return None
    return None if candidates and all(value is None for value in column) else column

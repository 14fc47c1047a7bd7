"""A configured alias as what the pipeline judges by: a safety policy and an ensemble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from reward.ensemble import Ensemble, Member, Scored
from reward.policy import Reading, SafetyPolicy
from reward.scorers import ImplicitScorer, LogprobScorer, SelfCertaintyScorer
from reward.types import Candidate, Judgement, Prompt
from server.config import AliasConfig
from server.config_scorers import ScorerConfig
from server.pipeline.policies import build_policy
from server.scorers.factory import ScorerFactory

OWN_OPINION = (ImplicitScorer, LogprobScorer, SelfCertaintyScorer)
"""Scorers that read the policy's own log-probabilities: good for choosing among its answers, no judges of it."""


@dataclass(frozen=True, slots=True)
class Judges:
    policy: SafetyPolicy
    ensemble: Ensemble

    async def judge(
        self, prompt: Prompt, candidates: Sequence[Candidate]
    ) -> tuple[tuple[Judgement, ...], tuple[str, ...]]:
        """All that is found about the candidates, and the names of the scorers that failed."""
        if len(candidates) > 1:
            scored, degraded = await self.ensemble.score(prompt, candidates)
        else:  # nothing to choose from: not worth the scorers' time
            scored, degraded = (Scored((), None, 0.0),) * len(candidates), ()
        readings = await asyncio.gather(*(self.policy.judge(prompt, one.text) for one in candidates))
        judgements = tuple(
            Judgement(one, reading.verdicts, found.scores, total, found.disagreement, reading.shown_text)
            for one, found, total, reading in zip(
                candidates, scored, _penalised(scored, readings), readings, strict=True
            )
        )
        return judgements, degraded

    async def reward_of(self, prompt: Prompt, judgement: Judgement) -> float | None:
        """`reward`, also of an answer that nothing had to be chosen from: that is scored now."""
        if judgement.scores:
            return self.reward(judgement)
        others = Ensemble(tuple(one for one in self.ensemble.members if not isinstance(one.scorer, OWN_OPINION)))
        scored, _ = await others.score(prompt, [judgement.candidate])
        return others.value(scored[0].scores)

    async def close(self) -> None:
        """Ends the guards' connections."""
        for guard in {*self.policy.input_guards, *self.policy.output_guards}:
            await guard.close()

    def reward(self, judgement: Judgement) -> float | None:
        """What the ensemble finds of an answer, by scorers that do not ask the policy itself. Adapters are compared by
        it. None where nothing was scored, or one of these scorers failed.
        """
        return self.ensemble.value(judgement.scores, without=OWN_OPINION)


def _penalised(scored: Sequence[Scored], readings: Sequence[Reading]) -> list[float | None]:
    """The totals less the penalties. Where nothing was scored, the penalties alone tell the candidates apart."""
    is_scored = any(found.total is not None for found in scored)
    if not is_scored and any(reading.penalty for reading in readings):
        return [-reading.penalty for reading in readings]
    return [
        None if found.total is None else found.total - reading.penalty
        for found, reading in zip(scored, readings, strict=True)
    ]


def build_judges(alias: AliasConfig, factory: ScorerFactory) -> Judges:
    """Raises `ValueError` with one line where the policy or a scorer cannot be built."""
    return Judges(build_policy(alias), build_ensemble(alias.scorers, factory))


def build_ensemble(scorers: Sequence[ScorerConfig], factory: ScorerFactory) -> Ensemble:
    """Raises `ValueError` with one line where a scorer cannot be built."""
    return Ensemble(tuple(Member(factory.build(one), weight=one.weight, timeout_s=one.timeout_s) for one in scorers))

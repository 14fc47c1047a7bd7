"""A configured alias as what the pipeline judges by: a safety policy and an ensemble."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from reward.ensemble import COMBINERS, Calibration, Ensemble, Member, Scored
from reward.policy import Reading, SafetyPolicy
from reward.scorers import ImplicitScorer, LogprobScorer, SelfCertaintyScorer
from reward.types import REJECTED, Candidate, Judgement, Prompt
from server.config import AliasConfig
from server.config.scorers import ScorerConfig
from server.pipeline.policies import build_policy
from server.scorers.factory import ScorerFactory

OWN_OPINION = (ImplicitScorer, LogprobScorer, SelfCertaintyScorer)
"""Scorers that read the policy's own log-probabilities: good for choosing among its answers, no judges of it."""

NOT_SCORED = Scored((), None, None, 0.0)


@dataclass(frozen=True, slots=True)
class Judges:
    policy: SafetyPolicy
    ensemble: Ensemble

    async def judge(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        observe: bool = True,
        always: bool = False,
        guarded: bool = True,
    ) -> tuple[tuple[Judgement, ...], tuple[str, ...]]:
        """All that is found about the candidates, and the names of the scorers that failed. `observe`: the calibration
        learns from them. `always`: score one alone too; without others to choose from that is not worth the time.
        `guarded`: guard models read them too.

        Candidates that were given up half-way are read by rules alone.
        """
        whole = [one for one in candidates if one.finish_reason != REJECTED]
        scored: tuple[Scored, ...] = (NOT_SCORED,) * len(whole)
        degraded: tuple[str, ...] = ()
        if whole and (always or len(candidates) > 1):
            scored, degraded = await self.ensemble.score(prompt, whole, observe=observe)
        rest = iter(scored)
        found = [NOT_SCORED if one.finish_reason == REJECTED else next(rest) for one in candidates]
        readings = await self._read(prompt, candidates, guarded=guarded)
        totals = _penalised([one.total for one in found], [one.penalty for one in readings])
        judgements = (
            Judgement(one, reading.verdicts, of.scores, total, of.disagreement, of.value, reading.shown_text)
            for one, of, total, reading in zip(candidates, found, totals, readings, strict=True)
        )
        return tuple(judgements), degraded

    async def _read(self, prompt: Prompt, candidates: Sequence[Candidate], *, guarded: bool) -> list[Reading]:
        if not guarded or not self.policy.output_guards:
            return [self.policy.read(one.text) for one in candidates]

        async def read(one: Candidate) -> Reading:
            if one.finish_reason == REJECTED:
                return self.policy.read(one.text)
            return await self.policy.judge(prompt, one.text)

        return await asyncio.gather(*map(read, candidates))

    def compared(self, judgements: Sequence[Judgement], degraded: Collection[str]) -> tuple[Judgement, ...]:
        """Judgements that were made one after the other, with totals as if made at once: of one calibration, and
        without the scorers that failed for some.
        """
        candidates = [one.candidate for one in judgements]
        scored = self.ensemble.combine([one.scores for one in judgements], candidates, degraded)
        penalties = [sum(verdict.penalty for verdict in one.verdicts) for one in judgements]
        totals = _penalised([one.total for one in scored], penalties)
        return tuple(
            dataclasses.replace(one, total=total, value=found.value, disagreement=found.disagreement)
            for one, found, total in zip(judgements, scored, totals, strict=True)
        )

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


def _penalised(totals: Sequence[float | None], penalties: Sequence[float]) -> list[float | None]:
    """The totals less the penalties. Where nothing was scored, the penalties alone tell the candidates apart."""
    if any(penalties) and all(total is None for total in totals):
        return [-penalty for penalty in penalties]
    return [None if total is None else total - penalty for total, penalty in zip(totals, penalties, strict=True)]


def build_judges(alias: AliasConfig, factory: ScorerFactory) -> Judges:
    """Raises `ValueError` with one line where the policy or a scorer cannot be built."""
    return Judges(build_policy(alias), as_combined(build_ensemble(alias.scorers, factory), alias))


def as_combined(ensemble: Ensemble, alias: AliasConfig) -> Ensemble:
    """The ensemble with totals as the alias chooses by them; its calibration has learned nothing yet."""
    return dataclasses.replace(
        ensemble,
        combiner=COMBINERS[alias.ensemble.combiner],
        calibration=Calibration() if alias.ensemble.calibrate else None,
        length_penalty=alias.ensemble.length_penalty.build(),
    )


def build_ensemble(scorers: Sequence[ScorerConfig], factory: ScorerFactory) -> Ensemble:
    """A weighted sum in the scorers' own units: its totals are values (`Ensemble.value`).

    Raises `ValueError` with one line where a scorer cannot be built.
    """
    return Ensemble(tuple(Member(factory.build(one), weight=one.weight, timeout_s=one.timeout_s) for one in scorers))

"""A configured alias as what the pipeline judges by: a safety policy and an ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from reward.ensemble import COMBINERS, Calibration, Ensemble, Member, Scored
from reward.policy import SafetyPolicy
from reward.ports import Rule, Scorer
from reward.rules import LengthRule, PatternRule, RepetitionRule
from reward.scorers import ImplicitScorer, LengthScorer, LogprobScorer, RepetitionScorer
from reward.types import REJECTED, Action, Candidate, Judgement, Prompt
from server.config import AliasConfig, RuleConfig, ScorerConfig
from server.engine.port import Engine
from server.wire.base import BASE

OWN_OPINION = (ImplicitScorer, LogprobScorer)
"""Scorers that read the policy's own log-probabilities: good for choosing among its answers, no judges of it."""

NOT_SCORED = Scored((), None, None, 0.0)


@dataclass(frozen=True, slots=True)
class Judges:
    policy: SafetyPolicy
    ensemble: Ensemble

    async def judge(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, observe: bool = True, always: bool = False
    ) -> tuple[tuple[Judgement, ...], tuple[str, ...]]:
        """All that is found about the candidates, and the names of the scorers that failed. `observe`: the calibration
        learns from them. `always`: score one alone too; without others to choose from that is not worth the time.

        Candidates that were given up half-way are checked, not scored.
        """
        whole = [one for one in candidates if one.finish_reason != REJECTED]
        scored: tuple[Scored, ...] = (NOT_SCORED,) * len(whole)
        degraded: tuple[str, ...] = ()
        if whole and (always or len(candidates) > 1):
            scored, degraded = await self.ensemble.score(prompt, whole, observe=observe)
        found = iter(scored)
        judged = (self._judged(one, NOT_SCORED if one.finish_reason == REJECTED else next(found)) for one in candidates)
        return tuple(judged), degraded

    def compared(self, judgements: Sequence[Judgement], degraded: Collection[str]) -> tuple[Judgement, ...]:
        """Judgements that were made one after the other, with totals as if made at once: of one calibration, and
        without the scorers that failed for some.
        """
        candidates = [one.candidate for one in judgements]
        scored = self.ensemble.combine([one.scores for one in judgements], candidates, degraded)
        return tuple(
            dataclasses.replace(one, total=found.total, value=found.value, disagreement=found.disagreement)
            for one, found in zip(judgements, scored, strict=True)
        )

    def _judged(self, candidate: Candidate, found: Scored) -> Judgement:
        verdicts = self.policy.check_output(candidate.text)
        return Judgement(candidate, verdicts, found.scores, found.total, found.disagreement, found.value)

    async def reward_of(self, prompt: Prompt, judgement: Judgement) -> float | None:
        """`reward`, also of an answer that nothing had to be chosen from: that is scored now."""
        if judgement.scores:
            return self.reward(judgement)
        others = Ensemble(tuple(one for one in self.ensemble.members if not isinstance(one.scorer, OWN_OPINION)))
        scored, _ = await others.score(prompt, [judgement.candidate])
        return others.value(scored[0].scores)

    def reward(self, judgement: Judgement) -> float | None:
        """What the ensemble finds of an answer, by scorers that do not ask the policy itself. Adapters are compared by
        it. None where nothing was scored, or one of these scorers failed.
        """
        return self.ensemble.value(judgement.scores, without=OWN_OPINION)


def build_judges(alias: AliasConfig, engine: Engine) -> Judges:
    """Raises `ValueError` with one line where a rule or scorer cannot be built."""
    rules = [(rule, build_rule(rule)) for rule in alias.rules]
    return Judges(
        SafetyPolicy(
            inputs=tuple(built for rule, built in rules if rule.on in {"input", "both"}),
            outputs=tuple(built for rule, built in rules if rule.on in {"output", "both"}),
        ),
        dataclasses.replace(
            build_ensemble(alias.scorers, engine),
            combiner=COMBINERS[alias.ensemble.combiner],
            calibration=Calibration() if alias.ensemble.calibrate else None,
            length_penalty=alias.ensemble.length_penalty.build(),
        ),
    )


def build_ensemble(scorers: Sequence[ScorerConfig], engine: Engine) -> Ensemble:
    """A weighted sum in the scorers' own units: its totals are values (`Ensemble.value`).

    Raises `ValueError` with one line where a scorer cannot be built.
    """
    return Ensemble(
        tuple(Member(build_scorer(one, engine), weight=one.weight, timeout_s=one.timeout_s) for one in scorers)
    )


def build_rule(config: RuleConfig) -> Rule:
    action = Action(config.action)
    match config.kind:
        case "pattern":
            return PatternRule(config.name, config.pattern, action)
        case "length":
            return LengthRule(config.name, config.max_chars, action)
        case "repetition":
            return RepetitionRule(config.name, config.max_repeats, action)


def build_scorer(config: ScorerConfig, engine: Engine) -> Scorer:
    match config.kind:
        case "logprob":
            return LogprobScorer()
        case "repetition":
            return RepetitionScorer()
        case "length":
            if not config.target_tokens:
                raise ValueError("scorer length: set target_tokens")
            return LengthScorer(config.target_tokens)
        case "implicit":

            async def base_logprobs(prompt: Prompt, answer: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
                scored = await engine.score(engine.base_model, prompt, answer)
                return scored.token_ids, scored.logprobs

            return ImplicitScorer(base_logprobs, BASE, config.beta)

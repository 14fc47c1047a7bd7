"""A configured alias as what the pipeline judges by: a safety policy and an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward.ensemble import Ensemble, Member, Scored
from reward.policy import SafetyPolicy
from reward.ports import Rule
from reward.rules import LengthRule, PatternRule, RepetitionRule
from reward.scorers import ImplicitScorer, LogprobScorer, SelfCertaintyScorer
from reward.types import Action, Candidate, Judgement, Prompt
from server.config import AliasConfig, RuleConfig
from server.config_scorers import ScorerConfig
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
        judgements = tuple(
            Judgement(one, self.policy.check_output(one.text), found.scores, found.total, found.disagreement)
            for one, found in zip(candidates, scored, strict=True)
        )
        return judgements, degraded

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


def build_judges(alias: AliasConfig, factory: ScorerFactory) -> Judges:
    """Raises `ValueError` with one line where a rule or scorer cannot be built."""
    rules = [(rule, build_rule(rule)) for rule in alias.rules]
    return Judges(
        SafetyPolicy(
            inputs=tuple(built for rule, built in rules if rule.on in {"input", "both"}),
            outputs=tuple(built for rule, built in rules if rule.on in {"output", "both"}),
        ),
        build_ensemble(alias.scorers, factory),
    )


def build_ensemble(scorers: Sequence[ScorerConfig], factory: ScorerFactory) -> Ensemble:
    """Raises `ValueError` with one line where a scorer cannot be built."""
    return Ensemble(tuple(Member(factory.build(one), weight=one.weight, timeout_s=one.timeout_s) for one in scorers))


def build_rule(config: RuleConfig) -> Rule:
    action = Action(config.action)
    match config.kind:
        case "pattern":
            return PatternRule(config.name, config.pattern, action)
        case "length":
            return LengthRule(config.name, config.max_chars, action)
        case "repetition":
            return RepetitionRule(config.name, config.max_repeats, action)

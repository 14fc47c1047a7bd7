"""An alias: what apps call as `model`, with all that is aligned for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from server.config.base import Section, Share
from server.config.lifecycle import GateConfig, RolloutConfig, SignalsConfig
from server.config.safety import RuleConfig, SecondWaveConfig
from server.config.scorers import ScorerConfig
from server.config.selection import (
    STEPWISE,
    AutoConfig,
    CompareConfig,
    EarlyRejectConfig,
    EnsembleConfig,
    PilafConfig,
    SelectionConfig,
    StepwiseConfig,
)
from server.wire.learner import LearnerSettings


class AliasConfig(Section):
    """The unit of alignment: what apps call as `model`."""

    name: str = Field("default", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """The model name that apps send."""
    best_of: Annotated[int, Field(ge=1)] | Literal["auto"] = 4
    """Candidates when the request does not say; `auto`: as many as are worth their cost."""
    auto: AutoConfig = AutoConfig()
    early_reject: EarlyRejectConfig = EarlyRejectConfig()
    stepwise: StepwiseConfig = StepwiseConfig()
    policy: Path | None = None
    """TOML file of safety rules that several aliases may share (`docs/safety.md`); they come before `rules`."""
    rules: tuple[RuleConfig, ...] = ()
    """Safety rules, all applied."""
    second_wave: SecondWaveConfig = SecondWaveConfig()
    scorers: tuple[ScorerConfig, ...] = (ScorerConfig(kind="implicit"),)
    """Scorers of the ensemble."""
    ensemble: EnsembleConfig = EnsembleConfig()
    refusal: str = "I can't answer that."
    """Text of the answer when every candidate is blocked."""
    train_tenants: tuple[str, ...] = ("default",)
    """Tenants whose groups may train this alias."""
    explore: Share | Literal["pilaf"] = 0.0
    """Probability of a random feasible candidate instead of the best one; or `pilaf`: the best one, and whoever is
    asked to choose sees it beside an answer of another policy (`docs/alignment.md`)."""
    pilaf: PilafConfig = PilafConfig()
    selection: SelectionConfig = SelectionConfig()
    compare: CompareConfig = CompareConfig()
    signals: SignalsConfig = SignalsConfig()
    gate: GateConfig = GateConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerSettings = LearnerSettings()

    @property
    def random_share(self) -> float:
        """Probability ε of a random feasible candidate."""
        return 0.0 if self.explore == "pilaf" else self.explore

    @property
    def certainty_top_k(self) -> int:
        """Alternatives at each token that the scorers read."""
        return max((one.top_k for one in self.scorers if one.kind == "self_certainty"), default=0)

    @model_validator(mode="after")
    def _scorers_can_be_told_apart(self) -> Self:
        labels = [scorer.label for scorer in self.scorers]
        if len(set(labels)) != len(labels):
            raise ValueError("two scorers of an alias have the same name: set name")
        return self

    @model_validator(mode="after")
    def _steps_are_the_only_search(self) -> Self:
        if self.selection.strategy == STEPWISE and (self.best_of == "auto" or self.early_reject.enabled):
            raise ValueError("selection.strategy stepwise needs best_of as a number, and early_reject off")
        return self

    @model_validator(mode="after")
    def _weights_suit_the_combiner(self) -> Self:
        if self.ensemble.combiner == "lambda_harmonic" and any(one.weight <= 0 for one in self.scorers):
            raise ValueError("ensemble.combiner lambda_harmonic needs scorers of positive weight")
        return self

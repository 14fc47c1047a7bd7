"""How an alias chooses among candidates: what its scorers' values become, and which candidate is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from reward.ensemble import LengthPenalty
from reward.selection import STRATEGIES, Strategy, entropy, margin
from reward.types import Judgement
from server.config.base import Section, Share
from server.wire.chat import StrategyName

STEPWISE: Final = "stepwise"
"""Chooses while the answer is generated (`server.pipeline.stepwise`), so it is no distribution over whole answers."""


class SelectionConfig(Section):
    """How one of the candidates becomes the answer (`docs/alignment.md`)."""

    strategy: StrategyName = "argmax"
    """`argmax`, `soft`, `mbr`, `pessimistic` or `stepwise`; a request may name another. The default suits few
    candidates."""
    temperature: float = Field(0.5, gt=0)
    """`soft`: λ of p ∝ exp(total / λ), in the total's units."""
    beta: float = Field(1.5, gt=0)
    """`pessimistic`: strength of the χ² penalty, in the total's units. Small is argmax, large takes all alike. The
    default keeps what a safety filter misses below 1.5 times its share (`docs/alignment.md`)."""

    def build(self, name: str | None = None) -> Strategy:
        """The strategy of this name, the alias's own without one. Each step of `stepwise` takes the highest total."""
        wanted = name or self.strategy
        return STRATEGIES["argmax" if wanted == STEPWISE else wanted](self.temperature, self.beta)


class CompareConfig(Section):
    """When `compare: "auto"` asks people to choose between two answers: where they say different things, and where the
    ensemble is undecided (Active Preference Learning, https://arxiv.org/abs/2402.08114).
    """

    when: Literal["always", "entropy", "margin"] = "always"
    """`always`: undecided or not; `entropy`: of all candidates' totals; `margin`: between the two shown."""
    min_entropy: float = Field(0.9, ge=0, le=1)
    """`entropy`: of the softmax over the totals, as a share of what it is when all are alike."""
    max_margin: float = Field(0.5, ge=0)
    """`margin`: the difference of the two totals, in the total's units."""

    def asks(self, judgements: Sequence[Judgement], winner: int, other: int) -> bool:
        if self.when == "entropy":
            return entropy(judgements) >= self.min_entropy
        return self.when == "always" or margin(judgements, winner, other) <= self.max_margin


class PilafConfig(Section):
    """`explore = "pilaf"`: comparisons with an answer of another policy (`docs/alignment.md`)."""

    share: Share = 0.5
    """Of the comparisons, that are with the other policy."""
    other: Literal["base", "previous"] = "base"
    """`base`, or `previous`: the adapter that was active before, base where there was none."""


class LengthPenaltyConfig(Section):
    """What an answer's total loses for its length, in the total's units."""

    strength: float = Field(0.0, ge=0)
    """The loss at twice `max_tokens`, or at no tokens where there is a `min_tokens`. 0: no penalty."""
    min_tokens: int = Field(0, ge=0)
    """Shorter answers lose."""
    max_tokens: int = Field(0, ge=0)
    """Longer answers lose; 0: none is too long."""
    exponent: float = Field(1.0, gt=0, le=4)
    """1: in proportion to the distance; 2: little at first."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.strength and not (self.min_tokens or self.max_tokens):
            raise ValueError("length_penalty needs min_tokens or max_tokens")
        if self.max_tokens and self.min_tokens > self.max_tokens:
            raise ValueError("length_penalty.min_tokens is larger than max_tokens")
        return self

    def build(self) -> LengthPenalty | None:
        if not self.strength:
            return None
        return LengthPenalty(self.strength, self.min_tokens, self.max_tokens, self.exponent)


class EnsembleConfig(Section):
    """How the scorers' values become one total (`docs/alignment.md`)."""

    combiner: Literal["sum", "min", "mean_minus_std", "lambda_harmonic"] = "sum"
    """`sum`, `min`, `mean_minus_std` or `lambda_harmonic`."""
    calibrate: bool = True
    """Put each scorer's values in units of their own usual spread, learned as they come. Off: as scorers give them."""
    length_penalty: LengthPenaltyConfig = LengthPenaltyConfig()


class AutoConfig(Section):
    """`best_of = "auto"`: candidates in waves, until another one is not worth its cost."""

    first_wave: int = Field(4, ge=2)
    """Candidates of the first wave; how far they differ says whether more are worth it."""
    wave: int = Field(2, ge=1)
    """Candidates of each later wave. Fewer stop more exactly, more are sooner done."""
    max_candidates: int = Field(16, ge=2)
    """Most candidates of one request; `chat.max_best_of` bounds it too."""
    cost: float = Field(0.05, gt=0)
    """What a candidate costs, in the total's units. .05 takes about 9 where totals of one prompt spread by 1, and 6
    where they spread by .5."""


class StepwiseConfig(Section):
    """`selection.strategy = "stepwise"`: the best of `best_of` sentences, then of those that may follow it."""

    ends: tuple[Annotated[str, Field(min_length=1, max_length=8)], ...] = Field(
        (".", "!", "?", "\n", "。", "！", "？"), min_length=1, max_length=16
    )
    """A sentence goes up to the first of these. With a comma among them the steps are clauses."""
    max_steps: int = Field(16, ge=1, le=64)
    """The last step goes to the answer's end, however many sentences that takes."""


class EarlyRejectConfig(Section):
    """Speculative rejection: the weaker candidates are given up while they grow."""

    enabled: bool = False
    """Whether it is done where the request does not say. Not together with waves."""
    checkpoints: tuple[Annotated[int, Field(ge=1)], ...] = Field((16, 48), min_length=1, max_length=8)
    """At so many tokens the candidates are compared, in rising order."""
    keep: float = Field(0.5, gt=0, le=1)
    """The share that goes on at each checkpoint."""

    @model_validator(mode="after")
    def _checkpoints_rise(self) -> Self:
        if any(one >= other for one, other in pairwise(self.checkpoints)):
            raise ValueError("early_reject.checkpoints must rise")
        return self

"""From a signal to an adapter that serves: what becomes of signals, the gate, and the canary."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from server.config.base import Seconds, Section, Share


class SignalsConfig(Section):
    """How signals become training data."""

    holdout_share: Share = 0.1
    """Share of prompts (by digest) whose groups are kept for the gate and never trained on."""
    safety_pairs: bool = True
    """Make blocked ≺ clean pairs from groups that hold both."""
    safety_pair_weight: float = Field(0.5, ge=0)
    """Weight of such a pair."""
    ai_pairs: bool = False
    """Make best ≻ worst pairs from the ensemble's totals where no person has spoken."""
    ai_margin: float = Field(1.0, gt=0)
    """Smallest difference of values (weighted scores in the scorers' own units) for such a pair."""
    reward_groups: bool = False
    """Tell the learner of groups whose candidates have rewards, spoken of or not: for `grpo` and its kind."""
    feedback_token_ttl_s: Seconds = 7 * 24 * 3600.0
    """How long an answer's feedback token is good."""
    max_per_hour: int = Field(600, ge=1)
    """Signals that one annotator may give in an hour; more get 429 with Retry-After. An annotator is a user, or a key
    whose app names no users."""


class SuiteConfig(Section):
    """One JSONL suite that every staged adapter must pass."""

    name: str = Field(min_length=1, max_length=64)
    """Shown in the gate report."""
    path: Path
    """JSONL of `{id, messages, images, checks}`."""
    margin: Share = 0.02
    """How much worse than the active adapter still passes."""
    greedy: bool = False
    """Ask at temperature 0 (skills) instead of 1 (behaviour)."""
    max_items: int = Field(200, ge=1)
    """Items used, from the start of the file."""
    max_tokens: int = Field(64, ge=1)
    """Length limit of an answer."""


class GateConfig(Section):
    """What a staged adapter has to show."""

    suites: tuple[SuiteConfig, ...] = ()
    """Behaviour and skills, each against the active adapter on the same items and seeds."""
    preference_margin: Share = 0.1
    """Held-out preference accuracy may lie this much below one half."""
    preference_nats: float = Field(1.0, gt=0)
    """The mean margin of held-out pairs (log-ratio to base, chosen less rejected) may lie this many nats below zero."""
    min_preference_pairs: int = Field(20, ge=1)
    """With fewer held-out pairs the preference checks are inconclusive."""
    max_preference_pairs: int = Field(200, ge=1)
    """Newest held-out pairs used."""
    reward_margin: Share = 0.1
    """The share of prompts on which the ensemble likes the new answer better than the active adapter's may lie this
    much below one half."""
    safety_margin: Share = 0.02
    """How much higher than the active adapter's the share of blocked answers may be."""
    max_length_ratio: float = Field(1.5, gt=1)
    """Mean answer length against base: at most this, at least its inverse."""
    max_kl: float = Field(1.0, gt=0)
    """Mean KL to base per token, in nats."""
    concurrency: int = Field(8, ge=1)
    """Requests to the engine at once."""


Metric = Literal["thumbs", "rewards", "safety", "errors", "latency"]
"""What a canary is judged by."""


class RolloutConfig(Section):
    """What becomes of an adapter that passed the gate."""

    automatic: bool = True
    """Start a canary by itself; off: wait for an operator."""
    canary_share: Share = 0.2
    """Share of users that a canary gets."""
    inconclusive_share: Share = 0.05
    """Share where the gate was inconclusive."""
    canary_requests: int = Field(2000, ge=1)
    """Canary requests after which the canary has expired with nothing shown. In so many, ten times the blocked and five
    times the failed answers show (`docs/canary.md`)."""
    on_expired: Literal["promote", "keep"] = "promote"
    """What an expired canary without harm becomes."""
    harm_alpha: float = Field(0.01, gt=0, lt=1)
    """Chance that an adapter that is as good as the active one is rolled back, over all metrics and however long."""
    promote_alpha: float = Field(0.01, gt=0, lt=1)
    """Chance that an adapter that is worse by a margin is called promising, however long it runs."""
    promote_on: tuple[Metric, ...] = ("thumbs", "safety", "errors")
    """A canary is promising once it is shown to be within the margin on all of these. None: never, it only expires."""
    thumbs_margin: float = Field(0.1, gt=0, lt=1)
    """How much lower the share of thumbs up may be."""
    rewards_margin: float = Field(0.05, gt=0, lt=0.5)
    """How far from one half the chance may fall that a canary answer's reward beats an active one's. .05 is a shift of
    about .18 standard deviations."""
    safety_margin: float = Field(0.02, gt=0, lt=1)
    """How much higher the share of blocked answers may be."""
    errors_margin: float = Field(0.02, gt=0, lt=1)
    """How much higher the share of failed answers may be."""
    latency_ratio: float = Field(1.25, ge=1)
    """How many times as long a canary answer may take before it counts as slower."""
    latency_margin: float = Field(0.05, gt=0, lt=0.5)
    """How far above one half the chance may lie that a canary answer is slower than an active one."""
    min_canary_s: float = Field(60.0, ge=0)
    """The server promotes no canary that ran for less."""
    cooldown_s: float = Field(600.0, ge=0)
    """After a canary that was ended for harm the server starts none of the alias for so long."""
    max_moves_per_hour: int = Field(12, ge=1)
    """Moves of the alias's routing that the server makes by itself in an hour; the end of a harmful canary counts, and
    is never put off."""
    poll_s: Seconds = 1.0
    """Pause between two looks at what came in while a canary runs."""

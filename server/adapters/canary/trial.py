"""One canary's run: what came in, and what follows from it. Pure.

Users are assigned, so users are the unit of evidence: each contributes once to each metric, with the first that is
heard of it. Waiting for more of the same user was no better in simulation (`docs/canary.md`). What was bet on is
never revised, so a Trial is a function of the stream that it was fed.

A canary is called harmful with a chance of at most `harm_alpha` where it is as good as the active adapter in all
metrics (alpha is split among them), and promising with one of at most `promote_alpha` where it is worse by the margin
in any that is asked for (each is asked at the whole alpha: all must be shown).
"""

from __future__ import annotations

from enum import StrEnum
from math import log
from typing import Any

from server.adapters.canary import summary
from server.adapters.canary.metrics import Level, Rate, difference, order
from server.adapters.canary.users import Users
from server.config import RolloutConfig
from server.store.records import Answered, Rated


class Verdict(StrEnum):
    RUNNING = "running"
    HARMFUL = "harmful"
    PROMISING = "promising"
    """Not worse than the margin on everything that the settings ask for."""
    EXPIRED = "expired"
    """Enough canary answers, and nothing shown."""


# What a unit has contributed to already.
ANSWER, REWARD, DURATION, BLOCK, FAILURE, THUMB = (1 << bit for bit in range(6))


class Trial:
    """One canary's run at one generation of routing. Fed in the order in which things were committed."""

    def __init__(self, generation: int, settings: RolloutConfig, share: float) -> None:
        """`share`: the canary's share of the users."""
        self.generation = generation
        self.settings = settings
        self.share = share
        self.answers = {True: 0, False: 0}
        self.since: float | None = None
        self.until: float | None = None
        allowed = log(settings.latency_ratio)
        self.thumbs = Level(difference, span=1.0, variance=1 / 4, margin=settings.thumbs_margin, share=share)
        self.rewards = Level(order, span=0.5, variance=1 / 12, margin=settings.rewards_margin, share=share)
        self.latency = Level(
            lambda canary, active: order(canary - allowed, active),
            span=0.5,
            variance=1 / 12,
            margin=settings.latency_margin,
            share=share,
        )
        self.safety = Rate(margin=settings.safety_margin, share=share)
        self.errors = Rate(margin=settings.errors_margin, share=share)
        self.metrics: dict[str, Level | Rate] = {
            "thumbs": self.thumbs,
            "rewards": self.rewards,
            "safety": self.safety,
            "errors": self.errors,
            "latency": self.latency,
        }
        self.harm_needed = len(self.metrics) / settings.harm_alpha
        """Evidence at which a metric shows harm."""
        self.needed = 1.0 / settings.promote_alpha
        """Evidence at which a metric shows non-inferiority."""
        self._users = Users()

    def answered(self, one: Answered) -> None:
        """Count a finished request."""
        self._note(one.at)
        self.answers[one.is_canary] += 1
        known = self._users.known(one.unit)
        new = ANSWER | BLOCK * one.is_blocked | FAILURE * one.has_failed
        new |= REWARD * (one.reward is not None) | DURATION * (one.duration_s is not None and one.duration_s > 0)
        new &= ~known
        if not new:
            return
        self._users.remember(one.unit, known | new)
        if new & ANSWER:
            self.safety.add(one.is_blocked, one.is_canary)
            self.errors.add(one.has_failed, one.is_canary)
        if new & BLOCK:
            self.safety.happened(one.is_canary)
        if new & FAILURE:
            self.errors.happened(one.is_canary)
        if new & REWARD and one.reward is not None:
            self.rewards.add(-one.reward, one.is_canary)
        if new & DURATION and one.duration_s is not None:
            self.latency.add(log(one.duration_s), one.is_canary)

    def rated(self, one: Rated) -> None:
        """Count an opinion."""
        self._note(one.at)
        known = self._users.known(one.unit)
        if not known & THUMB:
            self._users.remember(one.unit, known | THUMB)
            self.thumbs.add((1.0 - one.rating) / 2.0, one.is_canary)

    @property
    def verdict(self) -> Verdict:
        if any(metric.harm.highest >= self.harm_needed for metric in self.metrics.values()):
            return Verdict.HARMFUL
        asked = self.settings.promote_on
        if asked and all(self.metrics[name].non_inferiority.highest >= self.needed for name in asked):
            return Verdict.PROMISING
        return Verdict.EXPIRED if self.answers[True] >= self.settings.canary_requests else Verdict.RUNNING

    def summary(self) -> dict[str, Any]:
        """For the report, as JSON: counts, each metric's figures, and what they mean in `words`."""
        bars = summary.Bars(self.harm_needed, self.needed)
        asked = self.settings.promote_on
        return {
            "verdict": self.verdict.value,
            "generation": self.generation,
            "share": self.share,
            "since": self.since,
            "until": self.until,
            "canary_answers": self.answers[True],
            "active_answers": self.answers[False],
            "harm_needed": bars.harm,
            "non_inferiority_needed": bars.non_inferiority,
            "promote_on": list(asked),
            "metrics": {name: summary.figures(name, metric, bars) for name, metric in self.metrics.items()},
            "words": [summary.words(name, metric, bars, name in asked) for name, metric in self.metrics.items()],
        }

    def _note(self, at: float) -> None:
        self.since = at if self.since is None else min(self.since, at)
        self.until = at if self.until is None else max(self.until, at)

"""One canary's run: what came in, and what follows from it. Pure.

Users are assigned, so users are the unit of evidence: of each user one contribution to each metric, the first.
A contribution that was bet on is never revised, so a Trial is a function of the stream that it was fed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import log
from typing import Any

from server.adapters.canary.betting import EProcess
from server.config import RolloutConfig


@dataclass(frozen=True, slots=True)
class Answered:
    """One finished request."""

    unit: str
    """The user's hash; where no user was named, the group's id: then each request stands for itself."""
    is_canary: bool
    at: float
    """Seconds since the epoch."""
    is_blocked: bool
    """A safety rule blocked one of its candidates."""
    has_failed: bool
    """The engine failed, or base had to answer for the canary."""
    reward: float | None
    """The ensemble's value without any implicit reward; None where nothing was scored."""
    duration_s: float | None
    """None where it is not known."""


@dataclass(frozen=True, slots=True)
class Rated:
    """One live opinion on a served answer."""

    unit: str
    is_canary: bool
    at: float
    rating: float
    """-1 to 1."""


class Verdict(StrEnum):
    RUNNING = "running"
    HARMFUL = "harmful"
    PROMISING = "promising"
    """Not worse than the margin on everything that the settings ask for."""
    EXPIRED = "expired"
    """Enough canary answers, and nothing shown."""


class _Metric:
    """One number of both sides, larger is worse; matched in time, with its two tests."""

    def __init__(self, compare: Callable[[float, float], float], harm: float, non_inferiority: float) -> None:
        """`compare(canary, active)`: in -1 to 1. Margins: the means that are still no harm, and that are harm."""
        self._compare = compare
        self._margins = harm, non_inferiority
        self.harm = EProcess(1.0 + harm)
        self.non_inferiority = EProcess(1.0 - non_inferiority)
        self._units: set[str] = set()
        self._waiting: dict[bool, list[float]] = {True: [], False: []}
        self.counts = {True: 0, False: 0}
        self.sums = {True: 0.0, False: 0.0}

    def add(self, unit: str, is_canary: bool, value: float) -> None:
        if unit in self._units:
            return
        self._units.add(unit)
        self.counts[is_canary] += 1
        self.sums[is_canary] += value
        self._waiting[is_canary].append(value)
        canary, active = self._waiting[True], self._waiting[False]
        if not canary or not active:
            return
        worse = sum(self._compare(one, other) for one in canary for other in active) / (len(canary) * len(active))
        harm, non_inferiority = self._margins
        self.harm.bet(worse - harm)
        self.non_inferiority.bet(non_inferiority - worse)
        self._waiting = {True: [], False: []}


def _difference(canary: float, active: float) -> float:
    return canary - active


def _order(canary: float, active: float) -> float:
    return (canary > active) / 2 - (canary < active) / 2


class Trial:
    """One canary's run at one generation of routing."""

    def __init__(self, generation: int, settings: RolloutConfig, share: float) -> None:
        """`share`: the canary's share of the users."""
        self.generation = generation
        self._settings = settings
        self._share = share
        self._answers = {True: 0, False: 0}
        self._metrics = {
            "thumbs": _Metric(_difference, 0.0, 0.1),
            "rewards": _Metric(_order, 0.0, 0.05),
            "blocked": _Metric(_difference, 0.0, 0.02),
            "failed": _Metric(_difference, 0.0, 0.02),
            "latency": _Metric(_order, 0.05, 0.1),
        }
        self._harm_needed = len(self._metrics) / settings.harm_alpha
        self._needed = 1 / settings.harm_alpha

    def answered(self, one: Answered) -> None:
        """Count a finished request."""
        self._answers[one.is_canary] += 1
        metrics = self._metrics
        metrics["blocked"].add(one.unit, one.is_canary, float(one.is_blocked))
        metrics["failed"].add(one.unit, one.is_canary, float(one.has_failed))
        if one.reward is not None:
            metrics["rewards"].add(one.unit, one.is_canary, -one.reward)
        if one.duration_s is not None and one.duration_s > 0:
            metrics["latency"].add(one.unit, one.is_canary, log(one.duration_s))

    def rated(self, one: Rated) -> None:
        """Count an opinion."""
        self._metrics["thumbs"].add(one.unit, one.is_canary, (1 - one.rating) / 2)

    @property
    def verdict(self) -> Verdict:
        if any(metric.harm.highest >= self._harm_needed for metric in self._metrics.values()):
            return Verdict.HARMFUL
        if self._metrics["thumbs"].non_inferiority.highest >= self._needed:
            return Verdict.PROMISING
        return Verdict.EXPIRED if self._answers[True] >= self._settings.canary_requests else Verdict.RUNNING

    def summary(self) -> dict[str, Any]:
        """For the report: JSON."""
        return {
            "verdict": self.verdict.value,
            "generation": self.generation,
            "share": self._share,
            "canary_answers": self._answers[True],
            "active_answers": self._answers[False],
            "metrics": {
                name: {
                    "canary_users": metric.counts[True],
                    "active_users": metric.counts[False],
                    "evidence_of_harm": metric.harm.highest,
                    "harm_needed": self._harm_needed,
                    "evidence_of_non_inferiority": metric.non_inferiority.highest,
                    "non_inferiority_needed": self._needed,
                }
                for name, metric in self._metrics.items()
            },
        }

"""Evidence of harm that may be looked at after every answer without paying for the looking. Pure.

A betting e-process (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024):
the null says that the canary harms at most `margin` more often than the active adapter. Each pair of a canary
outcome and the mean of the active outcomes that came with it gives d = canary - active - margin, with mean at most
zero under the null; capital grows by 1 + λd for several fixed λ at once, and their average is a non-negative
martingale under the null at most. By Ville's inequality it ever reaches 1/alpha with a chance of at most alpha.

What it leaves out: outcomes of one user are treated as outcomes of many, so with few, very active users of
different habits the chance is larger than alpha.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

BETS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the largest allowed bet: small ones find small harms, large ones find large harms fast."""


class Verdict(StrEnum):
    RUNNING = "running"
    HARMFUL = "harmful"
    EXPIRED = "expired"
    """Enough canary answers, and no harm shown."""


@dataclass(slots=True)
class EProcess:
    """Capital against "the canary's mean exceeds the active one's by at most `margin`", outcomes in [0, 1]."""

    margin: float
    _capital: list[float] = field(default_factory=lambda: [1.0] * len(BETS))
    _waiting: dict[bool, tuple[float, int]] = field(default_factory=lambda: {True: (0.0, 0), False: (0.0, 0)})

    @property
    def value(self) -> float:
        return sum(self._capital) / len(self._capital)

    def add(self, outcome: float, *, is_canary: bool) -> None:
        """Count an outcome; bets as soon as both sides have one that was not bet on yet."""
        total, count = self._waiting[is_canary]
        self._waiting[is_canary] = (total + outcome, count + 1)
        canary, active = self._waiting[True], self._waiting[False]
        if not canary[1] or not active[1]:
            return
        difference = canary[0] / canary[1] - active[0] / active[1] - self.margin
        largest = 1.0 / (1.0 + self.margin)
        self._capital = [
            min(capital * (1.0 + bet * largest * difference), 1e100)
            for capital, bet in zip(self._capital, BETS, strict=True)
        ]
        self._waiting = {True: (0.0, 0), False: (0.0, 0)}


@dataclass(slots=True)
class Trial:
    """One canary's run, at one generation of routing: what came in, and what follows from it."""

    generation: int
    margin: float
    alpha: float
    enough: int
    """Canary answers after which the run has expired."""
    canary: int = 0
    active: int = 0
    canary_harms: int = 0
    active_harms: int = 0
    process: EProcess = field(init=False)

    def __post_init__(self) -> None:
        self.process = EProcess(self.margin)

    def add(self, *, is_canary: bool, is_harm: bool) -> None:
        if is_canary:
            self.canary += 1
            self.canary_harms += is_harm
        else:
            self.active += 1
            self.active_harms += is_harm
        self.process.add(float(is_harm), is_canary=is_canary)

    @property
    def verdict(self) -> Verdict:
        if self.process.value >= 1.0 / self.alpha:
            return Verdict.HARMFUL
        return Verdict.EXPIRED if self.canary >= self.enough else Verdict.RUNNING

    def summary(self) -> dict[str, float | int | str]:
        return {
            "verdict": self.verdict.value,
            "generation": self.generation,
            "canary_answers": self.canary,
            "canary_harms": self.canary_harms,
            "active_answers": self.active,
            "active_harms": self.active_harms,
            "evidence_of_harm": self.process.value,
            "needed": 1.0 / self.alpha,
        }

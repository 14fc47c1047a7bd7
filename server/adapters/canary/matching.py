"""Canary and active contributions matched in time, so that what changes with the hour changes both. Pure.

A block closes as soon as both sides have what one canary contribution is worth at the canary's share (1 and 4 at a
share of .2); then all that waits is compared, once, and never again. Which contributions make a block follows from
the order of arrival alone, so where canary and active are alike its difference has a mean of zero, whatever the
blocks before it were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

MOST_NEEDED = 50
"""Contributions of the larger side that a block waits for: at a tiny share, more would add nothing but time."""
MOST_WAITING = 256
"""Contributions that wait for the other side; of more, the newest."""


@dataclass(frozen=True, slots=True)
class Block:
    """What was compared at once."""

    worse: float
    """How much worse the canary was."""
    weight: float
    """How much more than an ordinary block this one weighs: it follows from the counts alone."""


class Matching:
    """One number of both sides, larger is worse. `compare(canary, active)` says by how much."""

    def __init__(self, compare: Callable[[float, float], float], share: float) -> None:
        """`share`: the canary's share of the users."""
        odds = (1.0 - share) / share if 0.0 < share < 1.0 else 1.0
        self._compare = compare
        self.needed = {
            True: min(max(1, round(1.0 / odds)), MOST_NEEDED),
            False: min(max(1, round(odds)), MOST_NEEDED),
        }
        """Contributions of each side (canary or not) that close a block."""
        self.ordinary = 1.0 / self.needed[True] + 1.0 / self.needed[False]
        self._waiting = {side: deque[float](maxlen=MOST_WAITING) for side in (True, False)}
        self.counts = {True: 0, False: 0}
        self.sums = {True: 0.0, False: 0.0}
        self._compared = 0
        self._worse = 0.0

    def add(self, value: float, is_canary: bool) -> Block | None:
        """The block that this closes, if it closes one."""
        self.counts[is_canary] += 1
        self.sums[is_canary] += value
        self._waiting[is_canary].append(value)
        canary, active = self._waiting[True], self._waiting[False]
        if len(canary) < self.needed[True] or len(active) < self.needed[False]:
            return None
        worse = sum(self._compare(one, other) for one, other in product(canary, active)) / (len(canary) * len(active))
        weight = self.ordinary / (1.0 / len(canary) + 1.0 / len(active))
        self._compared += len(canary)
        self._worse += worse * len(canary)
        canary.clear()
        active.clear()
        return Block(worse, weight)

    @property
    def worse(self) -> float | None:
        """The mean of what was compared, for a canary contribution; None before anything was."""
        return self._worse / self._compared if self._compared else None

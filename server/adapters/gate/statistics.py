"""Intervals of 95%, and what an interval says about a margin. Pure.

An interval speaks of the sampling of answers on the suite's fixed items: operators own the items, they are not a
sample of anything. So where no answer differs, the difference is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reward.evaluation import wilson

Outcome = Literal["passed", "failed", "inconclusive", "skipped"]

Z = 1.959963984540054
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
_T |= {12: 2.179, 15: 2.131, 20: 2.086, 25: 2.060, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980}


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds between which it lies with 95% confidence."""

    value: float
    low: float
    high: float
    count: int


def student(degrees: int) -> float:
    """97.5% quantile of Student's t: never smaller than the exact one."""
    known = [one for one in _T if one <= degrees]
    return _T[max(known)] if known else math.inf


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's interval of the mean; None without values."""
    count = len(values)
    if count == 0:
        return None
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student(count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


def paired_interval(candidate: Sequence[float], reference: Sequence[float]) -> Interval | None:
    """Interval of the mean of candidate - reference on the same items."""
    return mean_interval([one - other for one, other in zip(candidate, reference, strict=True)])


def ratio_interval(candidate: Sequence[float], reference: Sequence[float]) -> Interval | None:
    """Interval of mean(candidate) / mean(reference) on the same items, by the delta method."""
    count = len(candidate)
    below = math.fsum(reference) / count if count else 0.0
    if below <= 0:
        return None
    ratio = math.fsum(candidate) / count / below
    spread = mean_interval([one - ratio * other for one, other in zip(candidate, reference, strict=True)])
    assert spread is not None
    half = (spread.high - spread.low) / 2 / below
    return Interval(ratio, ratio - half, ratio + half, count)


def wilson_interval(successes: int, count: int) -> Interval | None:
    """Wilson's interval of a share; None without trials."""
    if count == 0:
        return None
    share = successes / count
    return Interval(share, *wilson(share, count), count)


def win_rate_interval(wins: int, losses: int, count: int) -> Interval | None:
    """Interval of P(win) + P(tie) / 2 in `count` paired comparisons; None without any.

    Tango's score interval of P(win) - P(loss) (Statistics in Medicine 17, 1998), halved around one half. Unlike
    Student's it keeps its coverage where few pairs differ, and is not a point where all of them or none do.
    """
    if count == 0:
        return None
    found = wins - losses

    def distance(difference: float) -> float:
        """How many standard errors the estimate lies above this difference; falls as the difference grows."""
        linear = (2 * count - found) * difference - wins - losses
        constant = -losses * difference * (1 - difference)
        losing = (math.sqrt(max(0.0, linear * linear - 8 * count * constant)) - linear) / (4 * count)
        variance = count * (2 * losing + difference * (1 - difference))
        return (found - count * difference) / math.sqrt(max(variance, 1e-12))

    def solve(wanted: float, low: float, high: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if distance(middle) > wanted else (low, middle)
        return (low + high) / 2

    share = found / count
    low, high = solve(Z, -1.0, share), solve(-Z, share, 1.0)
    return Interval(0.5 + share / 2, 0.5 + low / 2, 0.5 + high / 2, count)


def outcome(interval: Interval | None, *, at_least: float = -math.inf, at_most: float = math.inf) -> Outcome:
    """Failed when the whole interval lies beyond a bound, passed when it lies inside, else inconclusive."""
    if interval is None:
        return "inconclusive"
    if interval.high < at_least or interval.low > at_most:
        return "failed"
    if interval.low >= at_least and interval.high <= at_most:
        return "passed"
    return "inconclusive"


def overall(outcomes: Sequence[Outcome]) -> Outcome:
    """One failure fails; all that applied must pass to pass. Nothing checked proves nothing."""
    if "failed" in outcomes:
        return "failed"
    applied = [one for one in outcomes if one != "skipped"]
    return "passed" if applied and all(one == "passed" for one in applied) else "inconclusive"

"""Figures with 95% intervals: Wilson for a share of independent cases, bootstrap over scenes for the rest. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

Z_95: Final = 1.959964
RESAMPLES: Final = 1000
SEED: Final = 7

Item = TypeVar("Item")
Counted = tuple[float, float]
"""(numerator, denominator) of one scene."""


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float

    def rounded(self) -> list[float]:
        """The interval, as the result line has it."""
        return [round(self.low, 4), round(self.high, 4)]


def wilson(hits: int, total: int) -> Figure:
    """A share of independent cases (Wilson 1927); of nothing at all: nan between 0 and 1."""
    if total == 0:
        return Figure(math.nan, 0.0, 1.0)
    share, spread = hits / total, Z_95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / 4 / total)
    return Figure(share, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(items: Sequence[Item], estimate: Callable[[Sequence[Item]], float]) -> Figure:
    """The estimate, with the percentile interval over resampled items; resamples without a value are left out."""
    rng = random.Random(SEED)
    drawn = (estimate(rng.choices(items, k=len(items))) for _ in range(RESAMPLES if items else 0))
    values = sorted(value for value in drawn if math.isfinite(value))
    if not values:
        return Figure(math.nan, math.nan, math.nan)
    return Figure(
        estimate(items), values[int(0.025 * len(values))], values[min(len(values) - 1, int(0.975 * len(values)))]
    )


def ratio_of_sums(counted: Sequence[Counted]) -> float:
    """Sum of numerators over sum of denominators; nan without a denominator."""
    below = sum(denominator for _, denominator in counted)
    return sum(numerator for numerator, _ in counted) / below if below else math.nan


def share_over_scenes(counted: Sequence[Counted]) -> Figure:
    """A share whose cases come in clusters (objects of a scene, candidates of an answer)."""
    return bootstrap(counted, ratio_of_sums)


def mean_difference(before: Sequence[bool], after: Sequence[bool]) -> Figure:
    """Mean of before − after over the same items: the drop of a skill."""
    return share_over_scenes([(float(b) - float(a), 1.0) for b, a in zip(before, after, strict=True)])


def ratio_of_shares(after: Sequence[Counted], before: Sequence[Counted]) -> Figure:
    """Share after / share before, over the same scenes in the same order."""

    def estimate(pairs: Sequence[tuple[Counted, Counted]]) -> float:
        below = ratio_of_sums([pair[1] for pair in pairs])
        return ratio_of_sums([pair[0] for pair in pairs]) / below if below else math.nan

    return bootstrap(list(zip(after, before, strict=True)), estimate)

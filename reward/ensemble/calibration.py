"""Scorers' values in a common unit: robust standard deviations from what the scorer usually says. No I/O, no clock.

Each scorer's last values are kept (bounded), of one version: a new version starts anew. Their median is the centre,
their median absolute deviation (times 1.4826: a normal distribution's standard deviation) the scale; neither moves far
for one wild value. A cold start is the scorer's own unit: the scale begins at 1 and goes over to the observed one, on
the logarithmic scale, as values come (half way after `PRIOR_VALUES`). A scorer that nearly always says the same has
no observable scale, and keeps its own unit. What lies further out than `FARTHEST` counts as that far, so that no
scorer's wild value decides alone.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Final

KEPT_VALUES: Final = 512
PRIOR_VALUES: Final = 8
FARTHEST: Final = 10.0
TO_STANDARD_DEVIATION: Final = 1.4826
SMALLEST_SHARE: Final = 1e-9
"""A deviation below this share of the values' size is rounding."""


class RunningScale:
    """Centre and scale of one scorer's values."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=KEPT_VALUES)
        self._centre = 0.0
        self._scale = 1.0

    def observe(self, values: Sequence[float]) -> None:
        """`values` are finite."""
        if not values:
            return
        self._values.extend(values)
        self._centre = statistics.median(self._values)
        deviation = statistics.median(abs(value - self._centre) for value in self._values)
        share = len(self._values) / (len(self._values) + PRIOR_VALUES)
        is_constant = deviation <= SMALLEST_SHARE * max(SMALLEST_SHARE, abs(self._centre))
        self._scale = 1.0 if is_constant else math.exp(share * math.log(TO_STANDARD_DEVIATION * deviation))

    def standardise(self, value: float) -> float:
        """Within ± `FARTHEST`; the value itself as long as nothing was observed."""
        return min(max((value - self._centre) / self._scale, -FARTHEST), FARTHEST)


class Calibration:
    """One running scale for each scorer of an ensemble, by its position. Of one event loop."""

    def __init__(self) -> None:
        self._scales: dict[int, tuple[str, RunningScale]] = {}

    def of(self, position: int, version: str) -> RunningScale:
        known = self._scales.get(position)
        if known is None or known[0] != version:
            known = self._scales[position] = (version, RunningScale())
        return known[1]

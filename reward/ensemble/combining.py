"""Scorers' calibrated values → one total. Pure.

- `sum`: Σ wᵢzᵢ. Each scorer can make up for another.
- `min`: the lowest wᵢzᵢ (Coste et al. 2024, Reward Model Ensembles Help Mitigate Overoptimization: worst case).
- `mean_minus_std`: mean less the standard deviation of wᵢzᵢ (the same paper's uncertainty-weighted optimisation).
- `lambda_harmonic`: the weighted harmonic mean of the values as shares of 1 (λ-harmonic reward, Miao et al. 2024,
  Subject-driven Text-to-Image Generation via Preference-based Reinforcement Learning): a low value weighs most, without
  being all that counts. zᵢ becomes a share by the logistic function, and the mean is turned back by its inverse, so
  that the total has the unit of the others: −ln Σ ŵᵢ exp(−zᵢ), with weights that sum to 1.

What length costs is taken off the total: see `LengthPenalty`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Combiner = Callable[[Sequence[float], Sequence[float]], float]
"""(calibrated values, weights; at least one) → the total."""


def weighted(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    return [weight * value for value, weight in zip(values, weights, strict=True)]


def weighted_sum(values: Sequence[float], weights: Sequence[float]) -> float:
    """Σ wᵢzᵢ. A mixture of rewards, as of Wu et al. 2023, https://arxiv.org/abs/2306.01693."""
    return math.fsum(weighted(values, weights))


def lowest(values: Sequence[float], weights: Sequence[float]) -> float:
    """The lowest wᵢzᵢ. Worst-case optimisation, Coste et al. 2024, https://arxiv.org/abs/2310.02743."""
    return min(weighted(values, weights))


def mean_minus_std(values: Sequence[float], weights: Sequence[float]) -> float:
    """Mean less the standard deviation of wᵢzᵢ. Uncertainty-weighted, Coste et al. 2024, https://arxiv.org/abs/2310.02743."""
    parts = weighted(values, weights)
    return statistics.fmean(parts) - statistics.pstdev(parts)


def lambda_harmonic(values: Sequence[float], weights: Sequence[float]) -> float:
    """−ln Σ ŵᵢ exp(−zᵢ), ŵᵢ = wᵢ / Σ w. λ-harmonic reward, Miao et al. 2024, https://arxiv.org/abs/2407.12164.

    `weights` are positive.
    """
    least, whole = min(values), math.fsum(weights)
    shares = (weight / whole * math.exp(least - value) for value, weight in zip(values, weights, strict=True))
    return least - math.log(math.fsum(shares))


COMBINERS: Final[Mapping[str, Combiner]] = {
    "sum": weighted_sum,
    "min": lowest,
    "mean_minus_std": mean_minus_std,
    "lambda_harmonic": lambda_harmonic,
}


@dataclass(frozen=True, slots=True)
class LengthPenalty:
    """What an answer loses that is longer than `max_tokens` or shorter than `min_tokens`, by `strength` times the
    relative distance to the power of `exponent`: at twice the length, or at no length, it is `strength`.

    `max_tokens` 0: no answer is too long. GNMT's penalty divides a log-likelihood, which is negative and grows with
    length; totals are neither, so this is subtracted.
    """

    strength: float
    min_tokens: int = 0
    max_tokens: int = 0
    exponent: float = 1.0

    def __call__(self, tokens: int) -> float:
        if self.max_tokens and tokens > self.max_tokens:
            return self.strength * math.pow((tokens - self.max_tokens) / self.max_tokens, self.exponent)
        if tokens < self.min_tokens:
            return self.strength * math.pow((self.min_tokens - tokens) / self.min_tokens, self.exponent)
        return 0.0

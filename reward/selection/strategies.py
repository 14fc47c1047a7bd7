"""Selection strategies: each a distribution over the candidates that may be chosen.

- `argmax`: the highest total. Best where the scorers can be trusted or the candidates are few; with many it finds the
  scorers' mistakes (Gao et al. 2023, Scaling Laws for Reward Model Overoptimization).
- `soft`: p ∝ exp(total / λ), best-of-n with a temperature (Verdun et al. 2025, Soft Best-of-n Sampling).
- `mbr`: minimum Bayes risk, the candidate that agrees most with the others (`consensus`); scorers only break ties.
- `pessimistic`: inference-time pessimism (Huang et al. 2025, Is Best-of-N the Best of Them?): wᵢ = max(0, (rᵢ − λ)/β)
  with λ such that the weights' mean is 1, and pᵢ = wᵢ/N. No candidate's probability exceeds what its total justifies
  under a χ² penalty of strength β, so a candidate that a scorer overrates gains only in proportion to the overrating,
  and more candidates do not make it worse.

Deviation from the paper: it draws from these weights by rejection sampling, as answers come one by one. Here all N are
at hand, so the draw is exact, and the probability is known. pᵢ = max(0, (rᵢ − λ)/(βN)) is the Euclidean projection of
r/(βN) onto the simplex, for which sorting gives λ in closed form (Duchi et al. 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from reward.selection.consensus import agreement
from reward.types import Judgement


class Strategy(Protocol):
    """A distribution over candidates. Stateless; safe for concurrent use."""

    name: ClassVar[str]
    needs_totals: ClassVar[bool]
    """Whether it can choose among candidates of which none has a total."""

    def probabilities(self, candidates: Sequence[Judgement]) -> tuple[float, ...]:
        """One for each candidate, in order, with the sum 1. `candidates`: at least one, all feasible, and all with a
        total where the strategy needs totals.
        """
        ...

    def reason(self, count: int) -> str:
        """Why the chosen one of `count` feasible candidates, in words."""
        ...


@dataclass(frozen=True, slots=True)
class Argmax:
    """The highest total, the first of equals. Gao et al. 2023, https://arxiv.org/abs/2210.10760."""

    name: ClassVar[str] = "argmax"
    needs_totals: ClassVar[bool] = True

    def probabilities(self, candidates: Sequence[Judgement]) -> tuple[float, ...]:
        """1 for argmax rᵢ, 0 for the others."""
        return _certain(_totals(candidates))

    def reason(self, count: int) -> str:
        return f"highest total of {count} feasible candidates"


@dataclass(frozen=True, slots=True)
class Soft:
    """Best-of-n with a temperature. Verdun et al. 2025, https://arxiv.org/abs/2505.03156.

    `temperature` > 0, in the totals' units.
    """

    temperature: float
    name: ClassVar[str] = "soft"
    needs_totals: ClassVar[bool] = True

    def probabilities(self, candidates: Sequence[Judgement]) -> tuple[float, ...]:
        """pᵢ ∝ exp(rᵢ / λ), λ the `temperature`."""
        totals = _totals(candidates)
        highest = max(totals)
        return _normalised([math.exp((total - highest) / self.temperature) for total in totals])

    def reason(self, count: int) -> str:
        return f"drawn from {count} feasible candidates, in proportion to exp(total / {self.temperature:g})"


@dataclass(frozen=True, slots=True)
class Mbr:
    """Minimum Bayes risk: what agrees most with the others. Vamvas and Sennrich 2024, https://arxiv.org/abs/2402.04251.

    Of those that agree alike, the highest total, then the first.
    """

    name: ClassVar[str] = "mbr"
    needs_totals: ClassVar[bool] = False

    def probabilities(self, candidates: Sequence[Judgement]) -> tuple[float, ...]:
        """1 for argmax mean_j Dice(yᵢ, yⱼ) of character pairs and fours, 0 for the others."""
        shared = agreement([one.candidate.text for one in candidates])
        totals = [-math.inf if one.total is None else one.total for one in candidates]
        return _certain(list(zip(shared, totals, strict=True)))

    def reason(self, count: int) -> str:
        return f"agrees most with the others of {count} feasible candidates"


@dataclass(frozen=True, slots=True)
class Pessimistic:
    """χ²-regularised best-of-n. Huang et al. 2025, https://arxiv.org/abs/2503.21878.

    Of strength `beta` > 0, in the totals' units: small is argmax, large is uniform.
    """

    beta: float
    name: ClassVar[str] = "pessimistic"
    needs_totals: ClassVar[bool] = True

    def probabilities(self, candidates: Sequence[Judgement]) -> tuple[float, ...]:
        """pᵢ = max(0, (rᵢ − λ) / (βN)), with λ such that Σ pᵢ = 1."""
        totals = _totals(candidates)
        highest = max(totals)
        below = [total - highest for total in totals]
        budget = self.beta * len(below)  # what the kept ones lie above the threshold, together
        threshold, sum_kept = 0.0, 0.0
        for kept, one in enumerate(sorted(below, reverse=True), start=1):
            sum_kept += one
            if not kept * one - sum_kept + budget > 0:
                break
            threshold = (sum_kept - budget) / kept
        return _normalised([max(0.0, one - threshold) for one in below])

    def reason(self, count: int) -> str:
        return f"drawn from {count} feasible candidates, as far as their totals stand out (pessimism {self.beta:g})"


STRATEGIES: Final[Mapping[str, Callable[[float, float], Strategy]]] = {
    Argmax.name: lambda _temperature, _beta: Argmax(),
    Soft.name: lambda temperature, _beta: Soft(temperature),
    Mbr.name: lambda _temperature, _beta: Mbr(),
    Pessimistic.name: lambda _temperature, beta: Pessimistic(beta),
}
"""By name: (temperature λ of `soft`, pessimism β) → the strategy."""


def _totals(candidates: Sequence[Judgement]) -> list[float]:
    return [one.total for one in candidates if one.total is not None]


def _certain(values: Sequence[float] | Sequence[tuple[float, float]]) -> tuple[float, ...]:
    best = max(range(len(values)), key=lambda index: (values[index], -index))
    return tuple(1.0 if index == best else 0.0 for index in range(len(values)))


def _normalised(weights: Sequence[float]) -> tuple[float, ...]:
    whole = math.fsum(weights)
    return tuple(weight / whole for weight in weights)

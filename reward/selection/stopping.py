"""When to stop asking for further candidates: Pandora's rule. No I/O, no clock.

Each candidate is a box that costs `cost` to open and holds an unknown total; the best one opened is kept. Weitzman
(1979, Optimal Search for the Best Alternative): open on as long as the best total lies below the reservation value σ,
at which one more box gains what it costs, E[max(0, X − σ)] = cost. That is the optimum for boxes that are alike and a
known distribution. Here it is not known, and differs between prompts (Kalayci et al. 2025, Optimal Stopping vs
Best-of-N for Inference Time Optimization, learn it with a UCB). It is taken as normal, and estimated from this prompt's
totals, moderated by what earlier prompts were like (`Habits`): their means, their spread, and how much both differ from
prompt to prompt (empirical Bayes; the spread as in Smyth 2004, Linear Models and Empirical Bayes Methods). So four
candidates that happen to lie close together do not end the search where prompts usually spread more.

A candidate that repeats an earlier one's text is an empty box: it holds nothing new. So what is estimated is the total
of an answer that is new, from the answers that differ, and its gain counts only as often as one more answer is new
(`novelty`). Short answers repeat themselves; where all differ, nothing changes.

Candidates come in waves, since an engine makes several in nearly the time of one; the rule is asked between waves.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KEPT_PROMPTS: Final = 256
FEWEST_PROMPTS: Final = 16
"""Before so many were seen, the habits are a guess."""
STRENGTHS: Final = (0.5, 16.0)
"""Least and most that the usual spread may weigh, in candidates."""
SMALLEST_VARIANCE: Final = 1e-6
_NORMAL: Final = statistics.NormalDist()


@dataclass(frozen=True, slots=True)
class Prior:
    """What a prompt's totals are like before one is seen: their mean, and how far it varies between prompts; their
    variance within a prompt, and how many candidates this weighs.
    """

    mean: float = 0.0
    mean_variance: float = 1.0
    variance: float = 0.25
    strength: float = 1.0


class Habits:
    """What the totals of prompts are like, learned from the last ones. Of one event loop."""

    def __init__(self) -> None:
        self._prompts: deque[tuple[int, float, float]] = deque(maxlen=KEPT_PROMPTS)
        """(candidates, mean, variance) of each."""

    def observe(self, totals: Sequence[float]) -> None:
        """One prompt's totals, of equal answers once; fewer than two tell nothing. All of the first wave: later ones
        came of a choice.
        """
        if len(totals) > 1:
            variance = max(SMALLEST_VARIANCE, statistics.variance(totals))
            self._prompts.append((len(totals), statistics.fmean(totals), variance))

    def prior(self) -> Prior:
        if len(self._prompts) < FEWEST_PROMPTS:
            return Prior()
        counts, means, variances = zip(*self._prompts, strict=True)
        # A sample's variance of d degrees of freedom, in logarithms: lies lower by this, and varies by that.
        lower = statistics.fmean(1 / d + 1 / (3 * d * d) for d in (count - 1 for count in counts))
        varies = statistics.fmean(2 / d + 2 / (d * d) for d in (count - 1 for count in counts))
        logs = [math.log(variance) for variance in variances]
        excess = max(1e-3, statistics.variance(logs) - varies)
        within = statistics.fmean(variance / count for variance, count in zip(variances, counts, strict=True))
        return Prior(
            mean=statistics.fmean(means),
            mean_variance=max(SMALLEST_VARIANCE, statistics.variance(means) - within),
            variance=math.exp(statistics.fmean(logs) + lower),
            # trigamma(strength / 2) = excess, with trigamma(x) ≈ 1/x + 1/(2x²)
            strength=min(max((1 + math.sqrt(1 + 2 * excess)) / excess, STRENGTHS[0]), STRENGTHS[1]),
        )


@dataclass(frozen=True, slots=True)
class Pandora:
    """Pandora's rule: as many candidates as are worth their cost. Kalayci et al. 2025, https://arxiv.org/abs/2510.01394.

    `cost` > 0 of one candidate, in the totals' units: what a total has to rise by for a candidate to be worth it.
    """

    cost: float
    prior: Prior

    def wants_more(self, totals: Sequence[float], new: float = 1.0) -> bool:
        """One more as long as P(new) · E[max(0, X − best)] > cost.

        X is the next candidate's total. `totals`: of the answers so far that may be chosen, each once;
        `new`: the chance that one more is none of them.
        """
        if not totals:
            return True
        return new * expected_gain(max(totals), *predicted(totals, self.prior)) > self.cost


def novelty(answers: Sequence[str]) -> float:
    """The chance that one more answer is a new one: the share of those that came once (Good 1953), as if one more had.
    1 where all differ, 1 / (n + 1) where all n are equal.
    """
    once = sum(count == 1 for count in Counter(answers).values())
    return (once + 1) / (len(answers) + 1)


def predicted(totals: Sequence[float], prior: Prior) -> tuple[float, float]:
    """Mean and standard deviation of the next total; at least one is known."""
    count, mean = len(totals), statistics.fmean(totals)
    squares = math.fsum((total - mean) ** 2 for total in totals)
    variance = (prior.strength * prior.variance + squares) / (prior.strength + count - 1)
    precision = count / variance + 1 / prior.mean_variance
    posterior = (count * mean / variance + prior.mean / prior.mean_variance) / precision
    return posterior, math.sqrt(variance + 1 / precision)


def expected_gain(best: float, mean: float, std: float) -> float:
    """E[max(0, X − best)] of a normal X; `std` > 0."""
    ahead = (mean - best) / std
    return std * (_NORMAL.pdf(ahead) + ahead * _NORMAL.cdf(ahead))

"""Who meets whom when answers are compared two at a time, and how strong each then is. Pure.

With few answers everybody meets everybody. Beyond `budget` pairs, Swiss rounds: in each, answers of like points meet
that have not met yet, so that n answers are told apart by some n log n pairs. Strengths are those of Bradley and Terry
(1952), found by Hunter's MM steps (2004, Annals of Statistics 32), eq. 3, with one drawn game of each answer against an
average one: so they stay finite where somebody wins all, and are comparable between prompts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

Pair = tuple[int, int]
Results = Mapping[Pair, float]
"""(first, second) → the first one's points: 1 won, ½ drawn, 0 lost."""

STEPS = 100


def next_round(count: int, results: Results, budget: int) -> list[Pair]:
    """Pairs to compare now; none when all is played."""
    left = budget - len(results)
    everybody = list(itertools.combinations(range(count), 2))
    if len(everybody) <= budget:
        return [pair for pair in everybody if pair not in results]
    points = [0.0] * count
    for (first, second), won in results.items():
        points[first] += won
        points[second] += 1 - won
    waiting = sorted(range(count), key=lambda one: (-points[one], one))
    pairs: list[Pair] = []
    while waiting and len(pairs) < left:
        one = waiting.pop(0)
        other = next((rival for rival in waiting if _pair(one, rival) not in results), None)
        if other is not None:
            waiting.remove(other)
            pairs.append(_pair(one, other))
    return pairs


def strengths(count: int, results: Results) -> list[float]:
    """Natural logarithms, 0 for an average answer."""
    won = [0.5] * count
    for (first, second), points in results.items():
        won[first] += points
        won[second] += 1 - points
    strength = [1.0] * count
    for _ in range(STEPS):
        met = [1 / (one + 1.0) for one in strength]
        for first, second in results:
            share = 1 / (strength[first] + strength[second])
            met[first] += share
            met[second] += share
        strength = [points / share for points, share in zip(won, met, strict=True)]
    return [math.log(one) for one in strength]


def _pair(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)

"""Chooses one feasible candidate, with the exact probability of having chosen it. Pure.

With exploration ε a random feasible candidate is taken with probability ε, so logged data can be reweighted.
"""

from __future__ import annotations

from collections.abc import Sequence

from reward.types import Judgement, Selection


def argmax(judgements: Sequence[Judgement], *, explore: float = 0.0, draw: float = 0.0) -> Selection:
    """The feasible candidate with the highest total, the first of equals; no total at all: the first feasible.

    `draw` is a uniform random number of [0, 1) that decides about exploration; `explore` the probability of it.
    """
    feasible = [index for index, judgement in enumerate(judgements) if judgement.is_feasible]
    if not feasible:
        return Selection(None, 1.0, "argmax", "every candidate was blocked", (0.0,) * len(judgements))
    scored = [index for index in feasible if judgements[index].total is not None]
    best = max(scored, key=lambda index: (_total(judgements[index]), -index)) if scored else feasible[0]
    share = explore / len(feasible)
    probabilities = tuple(
        0.0 if index not in feasible else share + (1.0 - explore if index == best else 0.0)
        for index in range(len(judgements))
    )
    if draw < explore:
        index = feasible[int(draw / explore * len(feasible))]
        return Selection(index, probabilities[index], "argmax", "explored: a random feasible candidate", probabilities)
    if not scored:
        reason = "no scorer answered: the first candidate that no rule blocks"
    else:
        reason = f"highest total of {len(feasible)} feasible candidates"
    return Selection(best, probabilities[best], "argmax", reason, probabilities)


def ranked(judgements: Sequence[Judgement], first: int, count: int) -> tuple[int, ...]:
    """`first`, then further feasible candidates by falling total, at most `count` in all."""
    others = sorted(
        (index for index, judgement in enumerate(judgements) if judgement.is_feasible and index != first),
        key=lambda index: (judgements[index].total is None, -_total(judgements[index]), index),
    )
    return (first, *others[: count - 1])


def _total(judgement: Judgement) -> float:
    return judgement.total if judgement.total is not None else 0.0

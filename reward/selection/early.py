"""Speculative rejection: weaker answers are given up while they grow. Sun et al. 2024, https://arxiv.org/abs/2410.20290.

Pure. Deviation from the paper: it rejects when memory is about to run out, as many as make room. Here answers are
looked at once all have a given number of tokens, and a fixed share goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from reward.types import Judgement


def survivors(judgements: Sequence[Judgement], *, share: float, at_least: int = 1) -> tuple[int, ...]:
    """At each checkpoint the best ⌈share · N⌉ by the totals so far go on.

    Their positions, in order; `at_least` so many, never none. What a rule blocks already goes first. Where no
    scorer answered, nothing else is known, and nothing else goes.
    """
    clean = [position for position, one in enumerate(judgements) if one.is_feasible]
    if all(one.total is None for one in judgements):
        return tuple(clean or range(len(judgements)))
    kept = min(len(judgements), max(at_least, 1, math.ceil(share * len(judgements))))
    best_first = sorted(range(len(judgements)), key=lambda position: _worth(judgements[position], position))[:kept]
    going_on = [position for position in best_first if judgements[position].is_feasible]
    return tuple(sorted(going_on or best_first))


def _worth(judgement: Judgement, position: int) -> tuple[bool, bool, float, int]:
    """Sorts the best first."""
    return (not judgement.is_feasible, judgement.total is None, -(judgement.total or 0.0), position)

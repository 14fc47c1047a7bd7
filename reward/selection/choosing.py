"""A strategy's choice among judged candidates, with the exact probability of each.

Chosen from are feasible candidates with a total. Where none has one, a strategy that needs no totals chooses among all
that are feasible; for the others the first of them is taken (taste fails open, and not at random). With exploration ε a
random feasible candidate is taken with probability ε, so that logged data can be reweighted.
"""

from __future__ import annotations

from collections.abc import Sequence

from reward.selection.strategies import Strategy
from reward.types import Judgement, Selection


def choose(
    strategy: Strategy, judgements: Sequence[Judgement], *, explore: float = 0.0, draw: float = 0.0
) -> Selection:
    """`draw`: a uniform random number of [0, 1), which decides all; `explore`: the probability ε of exploration."""
    feasible = [index for index, judgement in enumerate(judgements) if judgement.is_feasible]
    if not feasible:
        return Selection(None, 1.0, strategy.name, "every candidate was blocked", (0.0,) * len(judgements))
    scored = [index for index in feasible if judgements[index].total is not None]
    is_guided = bool(scored) or not strategy.needs_totals
    choices = scored or (feasible if is_guided else feasible[:1])
    shares = strategy.probabilities([judgements[index] for index in choices]) if is_guided else (1.0,)
    probabilities = [0.0] * len(judgements)
    for index in feasible:
        probabilities[index] = explore / len(feasible)
    for index, share in zip(choices, shares, strict=True):
        probabilities[index] += (1.0 - explore) * share
    if draw < explore:
        index, reason = feasible[int(draw / explore * len(feasible))], "explored: a random feasible candidate"
    else:
        index = choices[_drawn(shares, (draw - explore) / (1.0 - explore))]
        reason = strategy.reason(len(feasible)) if is_guided else _UNSCORED
        if len(scored) > 1 and strategy.needs_totals and len({judgements[one].total for one in scored}) == 1:
            reason = f"{reason}; all totals are equal"
    return Selection(index, probabilities[index], strategy.name, reason, tuple(probabilities))


_UNSCORED = "no scorer answered: the first candidate that no rule blocks"


def _drawn(shares: Sequence[float], draw: float) -> int:
    """The position that `draw` falls on; never one of no share, however the shares' sum is rounded."""
    passed, last = 0.0, 0
    for position, share in enumerate(shares):
        if share > 0.0:
            passed, last = passed + share, position
            if draw < passed:
                break
    return last

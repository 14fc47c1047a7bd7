"""Which answers of a group a policy gradient learns from: PF-PPO. Zhang et al. 2024, https://arxiv.org/abs/2409.06957.

A reward model is surest at its extremes, so what lies between is left out, or counts for less. One small function
each, by name in `FILTRATIONS`: from rewards and groups, (R,), to how often an answer would be drawn.

1. The paper draws a group's answers anew; here each is weighted by how often it would be drawn, n times its share. That
   is the same loss in expectation, without the noise, and does not depend on how examples are packed.
2. The authors' `pow` is |r|². Rewards of an ensemble have no zero of their own, so r is taken from the group's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor

from learner.objectives.policy_gradient.advantages import centred, group_sums

BEST: Final = 0.4
OTHERS: Final = 0.1
"""Shares of the best answer and of each other one under `max_random`, in the authors' code."""


def power(rewards: Tensor, groups: Tensor) -> Tensor:
    """|r − mean|²: the further from the middle, the more often. PF-PPO's `pow`, https://arxiv.org/abs/2409.06957."""
    return centred(rewards, groups).square()


def max_min(rewards: Tensor, groups: Tensor) -> Tensor:
    """The best and the worst answers only. PF-PPO's best-worst, https://arxiv.org/abs/2409.06957."""
    is_best, is_worst = _is_highest(rewards, groups), _is_highest(-rewards, groups)
    return (is_best | is_worst).to(rewards.dtype)


def max_random(rewards: Tensor, groups: Tensor) -> Tensor:
    """The best answers four times as often as others. PF-PPO's best-random, https://arxiv.org/abs/2409.06957."""
    return _is_highest(rewards, groups) * (BEST - OTHERS) + OTHERS


def _is_highest(values: Tensor, groups: Tensor) -> Tensor:
    """(R,) bool, all of several equals."""
    together = groups[:, None] == groups[None]
    return ~(together & (values[None] > values[:, None])).any(-1)


def draws(shares: Tensor, groups: Tensor) -> Tensor:
    """How often each would be drawn in as many draws as its group has answers; once where nothing tells them apart."""
    totals = group_sums(shares, groups)
    counts = group_sums(shares.new_ones(shares.shape), groups)
    return (counts * shares / totals.where(totals > 0, totals.new_ones(()))).where(totals > 0, totals.new_ones(()))


FILTRATIONS: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "pow": power,
    "max_min": max_min,
    "max_random": max_random,
}

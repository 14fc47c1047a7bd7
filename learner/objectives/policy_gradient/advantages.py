"""Rewards of competing answers → advantages. One small function each, by name in `ADVANTAGES`.

`rewards` and `groups` are (R,); groups are numbered from 0 without gaps, and each has two answers at least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

EPSILON: Final = 1e-4
"""Added to the standard deviation, as in TRL."""


def group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """Sum over each answer's group, (R,)."""
    totals = values.new_zeros(int(groups.max()) + 1 if len(groups) else 0).index_add(0, groups, values)
    return totals[groups]


def centred(rewards: Tensor, groups: Tensor) -> Tensor:
    """Reward minus the mean of the group. Dr. GRPO, https://arxiv.org/abs/2503.20783."""
    return rewards - group_sums(rewards, groups) / group_sums(torch.ones_like(rewards), groups)


def deviations(rewards: Tensor, groups: Tensor) -> Tensor:
    """Standard deviation of each answer's group, that of a sample. (R,)"""
    squares = group_sums(centred(rewards, groups).square(), groups)
    return (squares / (group_sums(torch.ones_like(rewards), groups) - 1).clamp(min=1)).sqrt()


def normalised(rewards: Tensor, groups: Tensor) -> Tensor:
    """(r − mean) / (standard deviation + ε), that of a sample. GRPO, https://arxiv.org/abs/2402.03300."""
    return centred(rewards, groups) / (deviations(rewards, groups) + EPSILON)


def leave_one_out(rewards: Tensor, groups: Tensor) -> Tensor:
    """Reward minus the mean of the group's others. RLOO, https://arxiv.org/abs/2402.14740."""
    count = group_sums(torch.ones_like(rewards), groups)
    return rewards - (group_sums(rewards, groups) - rewards) / (count - 1).clamp(min=1)


def win_rates(rewards: Tensor, groups: Tensor) -> Tensor:
    """Share of the group's others that an answer is better than, (R,); of equals each wins half."""
    together = groups[:, None] == groups[None]
    wins = (rewards[:, None] > rewards[None]).to(rewards.dtype) + (rewards[:, None] == rewards[None]) / 2
    others = together.sum(-1) - 1
    return ((wins * together).sum(-1) - 0.5) / others.clamp(min=1)  # it equals itself


def win_rate(rewards: Tensor, groups: Tensor) -> Tensor:
    """wins/(G − 1), normalised as in GRPO: only the order counts. Pref-GRPO, https://arxiv.org/abs/2508.20751."""
    return normalised(win_rates(rewards, groups), groups)


ADVANTAGES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "normalised": normalised,
    "centred": centred,
    "leave_one_out": leave_one_out,
    "win_rate": win_rate,
}

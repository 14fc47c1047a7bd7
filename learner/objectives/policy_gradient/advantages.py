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


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    """Sum over each answer's group, (R,)."""
    totals = values.new_zeros(int(groups.max()) + 1 if len(groups) else 0).index_add(0, groups, values)
    return totals[groups]


def centred(rewards: Tensor, groups: Tensor) -> Tensor:
    """Reward minus the mean of the group. Dr. GRPO, https://arxiv.org/abs/2503.20783."""
    return rewards - _sums(rewards, groups) / _sums(torch.ones_like(rewards), groups)


def normalised(rewards: Tensor, groups: Tensor) -> Tensor:
    """(r − mean) / (standard deviation + ε), that of a sample. GRPO, https://arxiv.org/abs/2402.03300."""
    gap = centred(rewards, groups)
    variance = _sums(gap.square(), groups) / (_sums(torch.ones_like(rewards), groups) - 1).clamp(min=1)
    return gap / (variance.sqrt() + EPSILON)


def leave_one_out(rewards: Tensor, groups: Tensor) -> Tensor:
    """Reward minus the mean of the group's others. RLOO, https://arxiv.org/abs/2402.14740."""
    count = _sums(torch.ones_like(rewards), groups)
    return rewards - (_sums(rewards, groups) - rewards) / (count - 1).clamp(min=1)


ADVANTAGES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "normalised": normalised,
    "centred": centred,
    "leave_one_out": leave_one_out,
}

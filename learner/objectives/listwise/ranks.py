"""Rewards of competing answers → their order. `values` and `groups` are (R,); groups are numbered from 0."""

from __future__ import annotations

from torch import Tensor


def same_group(groups: Tensor) -> Tensor:
    """(R, R) bool."""
    return groups[:, None] == groups[None]


def better(rewards: Tensor, groups: Tensor) -> Tensor:
    """(R, R) bool: i and j are of one group, and i's reward is the higher one."""
    return same_group(groups) & (rewards[:, None] > rewards[None])


def places(values: Tensor, groups: Tensor) -> Tensor:
    """The place of each in its group, 1 for the highest value; of equals the earlier one comes first. (R,)"""
    above = values[None] > values[:, None]
    equal = values[None] == values[:, None]
    earlier = equal.tril(-1)
    return 1 + ((above | earlier) & same_group(groups)).sum(-1)


def relevance(rewards: Tensor, groups: Tensor) -> Tensor:
    """Rewards on the scale of their group: 0 for the lowest, 1 for the highest; 1 where all are alike. (R,)"""
    apart = same_group(groups)
    least = rewards[None].expand_as(apart).masked_fill(~apart, float("inf")).amin(-1)
    most = rewards[None].expand_as(apart).masked_fill(~apart, float("-inf")).amax(-1)
    spread = most - least
    return ((rewards - least) / spread.where(spread > 0, spread.new_ones(()))).where(spread > 0, spread.new_ones(()))

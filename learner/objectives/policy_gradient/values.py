"""What a group's answers are worth to a policy gradient: rewards, or each scorer's values, → advantages.

- `normalize_then_sum` (NVIDIA's GDPO, Liu et al. 2026, https://arxiv.org/abs/2601.05242): an advantage from each
  scorer's values alone, then their weighted sum. Summed first, different combinations of values may fall together, and
  the scorer with the largest spread decides. The paper divides the sum by its standard deviation over the batch; here
  it is divided by √Σw², what that would be of uncorrelated scorers, so that how examples are packed changes nothing.
- `win_rate` of several scorers: the weighted mean of an answer's win rates by each (Pref-GRPO, Wang et al. 2025,
  https://arxiv.org/abs/2508.20751, whose wins are those by a pairwise judge).
- `gap` (PIT, Wang et al. 2023, https://arxiv.org/abs/2310.00898): the reward is r(y) − r(y_ref). Less the
  group's mean that would be GRPO again, y_ref's part being the same for all; so the gap is the advantage, and y_ref the
  baseline: what is worse than it is lowered though it may be above the mean, and y_ref itself teaches nothing. The
  paper's y_ref stands in the prompt and its reward model is trained on gaps; here y_ref is what would have been
  answered without a choice among several, and the gap is that of two rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from learner.objectives.base import Rewarded
from learner.objectives.policy_gradient.advantages import ADVANTAGES, EPSILON, deviations, group_sums, win_rates

Rule = Callable[[Tensor, Tensor], Tensor]


def advantages(
    rewarded: Rewarded, advantage: str, reward: str, multi_objective: str, weights: Mapping[str, float]
) -> Tensor:
    """(R,). A group of which no scorer's values are known goes by its rewards."""
    rule = ADVANTAGES[advantage]
    if reward == "gap":
        rule = _gap(rewarded, divided=advantage == "normalised")
    if multi_objective == "normalize_then_sum":
        return _sum(rewarded, rule, weights)
    if advantage == "win_rate":
        return ADVANTAGES["normalised"](_mean_win_rates(rewarded, weights), rewarded.groups)
    return rule(rewarded.rewards, rewarded.groups)


def _sum(rewarded: Rewarded, rule: Rule, weights: Mapping[str, float]) -> Tensor:
    total = torch.zeros_like(rewarded.rewards)
    variance = torch.zeros_like(total)
    for weight, values, known in _columns(rewarded, weights):
        total = total + weight * rule(values, rewarded.groups) * known
        variance = variance + weight**2 * known
    whole = rule(rewarded.rewards, rewarded.groups)
    return torch.where(variance > 0, total / variance.where(variance > 0, variance.new_ones(())).sqrt(), whole)


def _mean_win_rates(rewarded: Rewarded, weights: Mapping[str, float]) -> Tensor:
    total = torch.zeros_like(rewarded.rewards)
    whole = torch.zeros_like(total)
    for weight, values, known in _columns(rewarded, weights):
        total = total + weight * win_rates(values, rewarded.groups) * known
        whole = whole + weight * known
    plain = win_rates(rewarded.rewards, rewarded.groups)
    return torch.where(whole > 0, total / whole.where(whole > 0, whole.new_ones(())), plain)


def _columns(rewarded: Rewarded, weights: Mapping[str, float]) -> list[tuple[float, Tensor, Tensor]]:
    """(weight, values, whether all of the answer's group have one) of each scorer."""
    found = []
    for name, values in rewarded.scores.items():
        missing = group_sums(values.isnan().to(values.dtype), rewarded.groups)
        found.append((weights.get(name, 1.0), values.nan_to_num(0.0), missing == 0))
    return found


def _gap(rewarded: Rewarded, *, divided: bool) -> Rule:
    """The gap to the baseline's value, or to the mean without one; by the group's standard deviation if `divided`."""
    is_baseline = rewarded.rewards.new_zeros(len(rewarded.rewards))
    if rewarded.baseline is not None:
        is_baseline = rewarded.baseline.to(rewarded.rewards.dtype)

    def rule(values: Tensor, groups: Tensor) -> Tensor:
        has_baseline = group_sums(is_baseline, groups) > 0
        measure = torch.where(has_baseline, is_baseline, torch.ones_like(values))
        gaps = values - group_sums(values * measure, groups) / group_sums(measure, groups)
        return gaps / (deviations(values, groups) + EPSILON) if divided else gaps

    return rule

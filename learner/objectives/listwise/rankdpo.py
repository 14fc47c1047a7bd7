"""RankDPO: DPO on a ranked list, weighted by gains. Karthik et al. 2024, https://arxiv.org/abs/2410.18013, eq. 7.

Every pair of the list counts for what a swap would cost its discounted cumulative gain: for the difference in gain, and
for how far apart the policy itself ranks the two, most at the top. LiPO-λ (https://arxiv.org/abs/2402.01878) has the
same weights, LambdaLoss's, for language models.

1. ψ, from which the gain G = 2^ψ − 1 is made, is the reward on its group's scale, 0 to 1: rewards of an ensemble have
   no scale of their own, the paper's are probabilities.
2. Places are those by Δ as the policy has it, detached. Before its first step all Δ are 0: then the order in which the
   answers were drawn counts, so that no pair is without weight.
3. Each answer's loss is the sum over those that it beats, so that a list of n answers counts n times, not n² times.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs
from learner.objectives.listwise.ranks import better, places, relevance


class RankDpo(Implicit):
    needs: ClassVar[Needs] = Needs.REWARDED
    ranked_by: Literal["policy", "rewards"] = "policy"
    """By what the places τ are given that are discounted: the policy's own Δ, or the rewards."""

    def losses(self, batch: Batch) -> Tensor:
        """Σ_{j: i≻j} |G_i − G_j| · |1/D(τ_i) − 1/D(τ_j)| · (−log σ(β (Δ_i − Δ_j))), G = 2^ψ − 1, D(τ) = log(1 + τ)."""
        if batch.rewarded is None:
            return batch.logprobs.new_zeros(0)
        delta = batch.delta[batch.rewarded.answers]
        rewards, groups = batch.rewarded.rewards.to(delta.dtype), batch.rewarded.groups
        gains = 2 ** relevance(rewards, groups) - 1
        order = delta.detach() if self.ranked_by == "policy" else rewards
        discounts = 1 / torch.log1p(places(order, groups).to(delta.dtype))
        weights = (gains[:, None] - gains[None]).abs() * (discounts[:, None] - discounts[None]).abs()
        losses = -logsigmoid(self.beta * (delta[:, None] - delta[None]))
        return (weights * losses * better(rewards, groups)).sum(-1)

"""PRDP: the margin predicts the difference of rewards. Deng et al. 2024, https://arxiv.org/abs/2402.08714.

1. The policy that is best under a KL to the reference has Δ_i − Δ_j = (r_i − r_j)/β for every two answers: a
   regression over all pairs of a group, each answer's loss the mean over its pairs, half of each pair to either side.
2. Proximal: tokens may move by `clip` from π_old (`previous`) at most; the larger of the squares with and without that
   bound counts, so that nothing is gained by going further. The paper bounds a denoising step; here it is a token.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Implicit, Needs


class Prdp(Implicit):
    needs: ClassVar[Needs] = Needs.REWARDED
    references: ClassVar[tuple[str, ...]] = ("previous",)
    clip: float = Field(0.2, gt=0)
    """ε: of a token's log π_θ/π_old."""

    def losses(self, batch: Batch) -> Tensor:
        """½ mean_j max[(Δ_i − Δ_j − (r_i − r_j)/β)², the same with log π_θ/π_old in ±ε]."""
        rewarded = batch.rewarded
        if rewarded is None:
            return batch.logprobs.new_zeros(0)
        old = batch.references["previous"]
        near = old + (batch.logprobs - old).clamp(-self.clip, self.clip)
        value = rewarded.rewards.to(batch.logprobs.dtype) / self.beta
        errors = []
        for logprobs in (batch.logprobs, near):
            error = batch.totals(logprobs - batch.reference)[rewarded.answers] - value
            errors.append((error[:, None] - error).square())
        others = (rewarded.groups[:, None] == rewarded.groups).fill_diagonal_(False)
        squares = torch.where(others, torch.maximum(*errors), value.new_zeros(()))
        return squares.sum(-1) / (2 * others.sum(-1).clamp(min=1))

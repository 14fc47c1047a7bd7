"""TRPA: pairs of preference levels, near the old policy. Su et al. 2025, https://arxiv.org/abs/2504.04524.

1. ℓ is the mean of log π_θ/π_ref over an answer's tokens. Pairs whose chosen answer is of the highest level, which is
   here rejected in no pair of the batch, count `anisotropy` times within σ (the paper's KTPO).
2. The trust region is k3, an estimate of KL(π_θ ‖ π_old) at each token, π_old the policy at the round's beginning; of
   the mean of both answers.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs

MOST: Final = 10.0
"""Of log π_old/π_θ at a token, beyond which k3 does not grow (the authors bound k3 itself)."""


class Trpa(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    references: ClassVar[tuple[str, ...]] = ("previous",)
    anisotropy: float = Field(2.5, gt=0)
    """Of the pairs whose chosen answer nothing is better than."""
    kl: float = Field(1e-3, ge=0)
    """Weight of the trust region."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(a β (ℓ_w − ℓ_l)) + c mean k3(π_θ ‖ π_old), a `anisotropy` for the highest level, else 1."""
        level = batch.delta / batch.lengths
        highest = ~torch.isin(batch.chosen, batch.rejected)
        scale = self.beta * torch.where(highest, self.anisotropy, 1.0).to(level.dtype)
        contrast = -logsigmoid(scale * (level[batch.chosen] - level[batch.rejected]))
        gap = torch.where(batch.mask, batch.references["previous"] - batch.logprobs, level.new_zeros(()))
        gap = gap.clamp(max=MOST)
        distance = batch.totals(torch.exp(gap) - gap - 1) / batch.lengths
        return contrast + self.kl * (distance[batch.chosen] + distance[batch.rejected]) / 2

"""APO-zero on thumbs: KTO without a reference point. D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266.

The paper's loss on pairs (eq. 7) falls into one part for each answer, which is what TRL's `apo_zero_unpaired` takes.
Desirable answers become likelier and undesirable ones less likely than under the reference, whatever becomes of others:
for people whose thumbs up are for answers better than the model's own. It needs no mismatched answers.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Implicit, Needs


class ApoZeroUnpaired(Implicit):
    needs: ClassVar[Needs] = Needs.UNPAIRED
    desirable_weight: float = Field(1.0, gt=0)
    """λ_D, by which losses of desirable answers are multiplied."""
    undesirable_weight: float = Field(1.0, gt=0)
    """λ_U, by which losses of undesirable answers are multiplied."""

    def losses(self, batch: Batch) -> Tensor:
        """λ_D (1 − σ(β Δ)) for desirable answers, λ_U σ(β Δ) for undesirable ones."""
        likely = torch.sigmoid(self.beta * batch.delta[batch.unpaired])
        desirable, undesirable = self.desirable_weight * (1 - likely), self.undesirable_weight * likely
        return torch.where(batch.desirable, desirable, undesirable)

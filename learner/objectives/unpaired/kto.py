"""KTO: thumbs without a counterpart. Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, eq. 8.

The reference point z estimates KL(π_θ ‖ π_ref) from mismatched pairs, as the paper and TRL do: some groups'
rows carry one more branch, an answer that was given to another prompt (`Batch.reference_point`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Implicit, Needs


class Kto(Implicit):
    needs: ClassVar[Needs] = Needs.UNPAIRED
    desirable_weight: float | None = Field(None, gt=0)
    """λ_D; None: from the round's thumbs (`balance`)."""
    undesirable_weight: float | None = Field(None, gt=0)
    """λ_U; None: from the round's thumbs."""

    def losses(self, batch: Batch) -> Tensor:
        """λ_D (1 − σ(β(Δ − z))) for desirable answers, λ_U (1 − σ(β(z − Δ))) for undesirable ones."""
        gap = self.beta * (batch.delta[batch.unpaired] - batch.reference_point)
        desirable = (1.0 if self.desirable_weight is None else self.desirable_weight) * (1 - torch.sigmoid(gap))
        undesirable = (1.0 if self.undesirable_weight is None else self.undesirable_weight) * torch.sigmoid(gap)
        return torch.where(batch.desirable, desirable, undesirable)

    def balanced(self, desirable: float, undesirable: float) -> Kto:
        """With the weights that were left open set for these amounts of examples."""
        up, down = balance(desirable, undesirable)
        return self.model_copy(
            update={
                "desirable_weight": up if self.desirable_weight is None else self.desirable_weight,
                "undesirable_weight": down if self.undesirable_weight is None else self.undesirable_weight,
            }
        )


def balance(desirable: float, undesirable: float, most: float = 8.0) -> tuple[float, float]:
    """(λ_D, λ_U) for these amounts of examples: λ_D n_D : λ_U n_U comes into [1, 4/3], as the paper advises.

    The scarcer kind is raised; never above `most`, so that a single thumb cannot rule a round.
    """
    if desirable <= 0 or undesirable <= 0:
        return 1.0, 1.0
    ratio = desirable / undesirable
    if ratio < 1:
        return min(most, 1 / ratio), 1.0
    return 1.0, min(most, max(1.0, ratio * 3 / 4))

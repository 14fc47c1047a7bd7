"""Dr. GRPO: without the biases of length and of the group's spread. Liu et al. 2025, https://arxiv.org/abs/2503.20783."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from learner.objectives.policy_gradient.base import Clipped, Drawn


class DrGrpo(Clipped):
    advantage: str = "centred"
    max_length: int = Field(256, ge=1)
    """Every answer's sum is divided by this many tokens (TRL's `max_completion_length`)."""

    def aggregate(self, losses: Tensor, rows: Drawn) -> Tensor:
        """The sum over the answer's tokens by a constant."""
        return losses.sum(-1) / self.max_length

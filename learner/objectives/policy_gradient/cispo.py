"""CISPO: the ratio is clipped as a weight, so that no token loses its gradient.

MiniMax 2025, https://arxiv.org/abs/2506.13585; the bound is ScaleRL's, https://arxiv.org/abs/2510.13786.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from learner.objectives.policy_gradient.base import Drawn, PolicyGradient


class Cispo(PolicyGradient):
    epsilon_high: float = Field(5.0, gt=0)

    def token_losses(self, rows: Drawn, ratio: Tensor, advantages: Tensor) -> Tensor:
        """−sg[min(ρ, ε_high)] A log π_θ."""
        return -ratio.clamp(max=self.epsilon_high).detach() * advantages * rows.logprobs

    def aggregate(self, losses: Tensor, rows: Drawn) -> Tensor:
        """The sum over the answer's tokens by the mean length in the round."""
        return losses.sum(-1) / rows.rewarded.round_length

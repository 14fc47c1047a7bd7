"""SAPO: a soft gate in place of the clip. Gao et al. 2025, https://arxiv.org/abs/2511.20347."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from learner.objectives.policy_gradient.base import Drawn, PolicyGradient


class Sapo(PolicyGradient):
    temperature_positive: float = Field(1.0, gt=0)
    temperature_negative: float = Field(1.05, gt=0)

    def token_losses(self, rows: Drawn, ratio: Tensor, advantages: Tensor) -> Tensor:
        """−(4/τ) σ(τ(ρ − 1)) A, with τ by the sign of A."""
        up, down = (advantages.new_tensor(value) for value in (self.temperature_positive, self.temperature_negative))
        temperature = torch.where(advantages > 0, up, down)
        return -torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature * advantages

"""NPO: unlearning what is undesirable. Zhang et al. 2024, https://arxiv.org/abs/2404.05868.

Desirable answers are the paper's retain set, held by their likelihood (its "NPO + retain" with weight 1).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Npo(Implicit):
    needs: ClassVar[Needs] = Needs.UNPAIRED
    retain: float = Field(1.0, ge=0)

    def losses(self, batch: Batch) -> Tensor:
        """−(2/β) log σ(−β Δ) for undesirable answers, −`retain` · log π_θ(y|x)/|y| for desirable ones."""
        forget = -2 / self.beta * logsigmoid(-self.beta * batch.delta[batch.unpaired])
        return torch.where(batch.desirable, -self.retain * batch.mean_logprobs[batch.unpaired], forget)

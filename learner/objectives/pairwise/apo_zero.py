"""APO-zero: raises the chosen, lowers the rejected. D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266, eq. 7.

For pairs whose chosen answers are better than what the model says by itself.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from learner.objectives.base import Batch, Implicit, Needs


class ApoZero(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS

    def losses(self, batch: Batch) -> Tensor:
        """1 − σ(β Δ_w) + σ(β Δ_l)."""
        reward = self.beta * batch.delta
        return torch.sigmoid(-reward[batch.chosen]) + torch.sigmoid(reward[batch.rejected])

"""APO-down: lowers both, the rejected one more. D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266, eq. 8.

For pairs whose chosen answers are worse than what the model says by itself.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from learner.objectives.base import Batch, Implicit, Needs


class ApoDown(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS

    def losses(self, batch: Batch) -> Tensor:
        """σ(β Δ_w) + 1 − σ(β h)."""
        return torch.sigmoid(self.beta * batch.delta[batch.chosen]) + torch.sigmoid(-self.beta * batch.margin)

"""DPO-positive: the chosen answer may not lose. Pal et al. 2024 (Smaug), https://arxiv.org/abs/2402.13228, eq. 3.

Pairs that differ in a few tokens make DPO lower both; a chosen answer below the reference costs λ times what it lost.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Dpop(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    penalty: float = Field(50.0, ge=0)
    """λ: within β, as the paper has it, so with β .1 five times the loss of log-probability."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β (h − λ max(0, −Δ_w)))."""
        lost = torch.relu(-batch.delta[batch.chosen])
        return -logsigmoid(self.beta * (batch.margin - self.penalty * lost))

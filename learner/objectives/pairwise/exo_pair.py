"""EXO on a pair: reverse KL to the smoothed label. Ji et al. 2024, https://arxiv.org/abs/2402.00856, eq. 16.

DPO is the forward KL; the reverse one seeks the mode of what people prefer.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class ExoPair(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    label_smoothing: float = Field(1e-3, gt=0, lt=0.5)
    """ε: the probability that the label gives to the rejected answer. At 0 the divergence would be infinite."""

    def losses(self, batch: Batch) -> Tensor:
        """KL([q, 1−q] ‖ [1−ε, ε]) = q log(q/(1−ε)) + (1−q) log((1−q)/ε), where q = σ(β h)."""
        logit = self.beta * batch.margin
        chosen = torch.sigmoid(logit) * (logsigmoid(logit) - math.log1p(-self.label_smoothing))
        return chosen + torch.sigmoid(-logit) * (logsigmoid(-logit) - math.log(self.label_smoothing))

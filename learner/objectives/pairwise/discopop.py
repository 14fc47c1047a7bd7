"""DiscoPOP: a loss that a language model found. Lu et al. 2024, https://arxiv.org/abs/2406.08414, eq. 5.

It is logistic for wrong margins and exponential for right ones. It is not convex, and its slope at h = 0 is
β [(1 − log 2)/(4τ) − ¾]: below τ = (1 − log 2)/3 = .102, as with the paper's .05, a policy that begins at the reference
is driven the wrong way at first. Alone, take a larger τ; or set another loss beside it.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs

MOST: Final = 80.0
"""Of the exponent: beyond, the modulation is 0 and the exponential would be infinite."""


class Discopop(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    tau: float = Field(0.05, gt=0)
    """τ: how sharply the two forms are told apart."""

    def losses(self, batch: Batch) -> Tensor:
        """−(1 − m) log σ(β h) + m exp(−β h), where m = σ(β h/τ)."""
        logit = self.beta * batch.margin
        modulation = torch.sigmoid(logit / self.tau)
        return -(1 - modulation) * logsigmoid(logit) + modulation * torch.exp((-logit).clamp(max=MOST))

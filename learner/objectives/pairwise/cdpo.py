"""Conservative DPO: labels are wrong with probability ε. Mitchell 2023, https://ericmitchell.ai/cdpo.pdf."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Cdpo(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    label_smoothing: float = Field(0.1, ge=0, lt=0.5)

    def losses(self, batch: Batch) -> Tensor:
        """−(1−ε) log σ(β h) − ε log σ(−β h)."""
        logit = self.beta * batch.margin
        return -(1 - self.label_smoothing) * logsigmoid(logit) - self.label_smoothing * logsigmoid(-logit)

"""Robust DPO: the unbiased loss under labels that are flipped with probability ε.

Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409. It is not bounded below: watch the KL.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Robust(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    label_smoothing: float = Field(0.1, ge=0, lt=0.5)

    def losses(self, batch: Batch) -> Tensor:
        """[−(1−ε) log σ(β h) + ε log σ(−β h)] / (1 − 2ε)."""
        logit, rate = self.beta * batch.margin, self.label_smoothing
        return (rate * logsigmoid(-logit) - (1 - rate) * logsigmoid(logit)) / (1 - 2 * rate)

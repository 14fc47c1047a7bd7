"""SimPO: length-normalised and without a reference. Meng et al. 2024, https://arxiv.org/abs/2405.14734."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Needs, Objective


class Simpo(Objective):
    needs: ClassVar[Needs] = Needs.PAIRS
    beta: float = Field(2.0, gt=0)
    gamma: float = Field(1.0, ge=0)
    """Target margin γ; the paper advises γ/β of about one half."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β log π_w/|y_w| − β log π_l/|y_l| − γ)."""
        mean = batch.mean_logprobs
        return -logsigmoid(self.beta * (mean[batch.chosen] - mean[batch.rejected]) - self.gamma)

"""XPO: DPO that is paid for leaving the reference's answers. Xie et al. 2024, https://arxiv.org/abs/2405.21046.

1. Exploration by optimism: of each pair one answer comes from the reference, and its log-probability is lowered a
   little. Here that is an answer which base drew; of a pair with two of them each counts half, of one with none nothing
   is added.
2. It is of use where candidates come from adapter and base alike, and signals are collected round after round.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Xpo(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    optimism: float = Field(1e-5, ge=0)
    """α: of the log-probability of what base said."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h) + α log π(y_ref), y_ref the pair's answer that base drew."""
        losses = -logsigmoid(self.beta * batch.margin)
        if batch.drawn_by_base is None:
            return losses
        totals = batch.totals(batch.logprobs)
        members = [batch.chosen, batch.rejected]
        drawn = sum((totals[one] * batch.drawn_by_base[one] for one in members), totals.new_zeros(()))
        count = sum((batch.drawn_by_base[one] for one in members), totals.new_zeros(()))
        return losses + self.optimism * drawn / count.clamp(min=1)

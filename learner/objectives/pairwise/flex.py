"""Flex-DPO: a smaller β for what is rejected. Yan et al. 2024, https://arxiv.org/abs/2406.07327.

1. As functions of the probabilities, DPO's slope by π_l is π_w/π_l times that by π_w: the less likely the rejected
   answer, the faster it falls, until nothing is left but suppression (the paper's "3D-properties"). With unlike β the
   slopes are as (β⁻ π_w) to (β⁺ π_l): a β⁻ below β⁺ slows the fall in proportion.
2. With β⁻ = β⁺ it is DPO. The paper's best were a little smaller, by .02.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Flex(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    rejected_share: float = Field(0.8, gt=0, le=1)
    """β⁻/β⁺; β⁺ is `beta`."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β⁺ Δ_w − β⁻ Δ_l)."""
        delta = self.beta * batch.delta
        return -logsigmoid(delta[batch.chosen] - self.rejected_share * delta[batch.rejected])

"""NCA on a pair: raises the chosen answer itself, not the margin alone. Chen et al. 2024, https://arxiv.org/abs/2402.05369.

Noise contrastive: each answer is told apart from what the reference would have said.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class NcaPair(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β Δ_w) − ½ log σ(−β Δ_w) − ½ log σ(−β Δ_l)."""
        reward = self.beta * batch.delta
        chosen, rejected = reward[batch.chosen], reward[batch.rejected]
        return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)

"""DPO. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7. With `sft` beside it, it is RPO."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Sigmoid(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h)."""
        return -logsigmoid(self.beta * batch.margin)

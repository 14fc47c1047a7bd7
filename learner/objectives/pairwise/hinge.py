"""SLiC's hinge on the implicit reward. Zhao et al. 2023, https://arxiv.org/abs/2305.10425; RSO, 2309.06657."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from learner.objectives.base import Batch, Implicit, Needs


class Hinge(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS

    def losses(self, batch: Batch) -> Tensor:
        """max(0, 1 − β h)."""
        return torch.relu(1 - self.beta * batch.margin)

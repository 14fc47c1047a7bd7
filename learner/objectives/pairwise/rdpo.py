"""Re-Align's rDPO: the answer must tell the image from the one most like it. Xing et al. 2025, https://arxiv.org/abs/2502.13146.

v_ret is the image of the round that is most similar to v by the vision tower's own features. It is a harder negative
than a cropped one: what both show, the answer may rest on; what tells them apart, it must. Pairs whose image has no
other to be compared with, and pairs that no person chose, have no conditional term.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Needs
from learner.objectives.pairwise.conditional import Conditional, ViewName


class Rdpo(Conditional):
    needs: ClassVar[Needs] = Needs.PAIRS
    view: ViewName = "retrieve"

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h) − log σ(β [Δ(y_w|v) − Δ(y_w|v_ret)])."""
        return self.conditional(batch) - logsigmoid(self.beta * batch.margin)

"""Length-normalised DPO. Meng et al. 2024, https://arxiv.org/abs/2405.14734, table 2; Lambert et al. 2024, 2411.15124.

Without the division long answers have large margins for their length alone.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class SigmoidNorm(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β (Δ_w/|y_w| − Δ_l/|y_l|))."""
        mean = batch.delta / batch.lengths
        return -logsigmoid(self.beta * (mean[batch.chosen] - mean[batch.rejected]))

"""IPO. Azar et al. 2023, https://arxiv.org/abs/2310.12036, eq. 17.

Δ is divided by the answer's length, as the authors told TRL: otherwise the square grows with length.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from learner.objectives.base import Batch, Implicit, Needs


class Ipo(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS

    def losses(self, batch: Batch) -> Tensor:
        """(Δ_w/|y_w| − Δ_l/|y_l| − 1/(2β))²."""
        mean = batch.delta / batch.lengths
        gap: Tensor = mean[batch.chosen] - mean[batch.rejected] - 1 / (2 * self.beta)
        return gap.square()

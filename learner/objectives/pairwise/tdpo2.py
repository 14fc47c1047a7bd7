"""TDPO₂: holds the rejected answer's KL to the chosen one's. Zeng et al. 2024, https://arxiv.org/abs/2404.11999.

SeqKL is the sum over an answer's tokens of KL(π_ref ‖ π_θ), exact, over the whole vocabulary; the chosen answer's has
no gradient, so that it is a baseline and not a thing to raise.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Tdpo2(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    alpha: float = Field(0.5, ge=0)
    """α: weight of the difference of the divergences."""

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("reference_kl",)

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h − α β (SeqKL_l − sg SeqKL_w))."""
        kl = batch.totals(batch.statistics["reference_kl"])
        beyond = kl[batch.rejected] - kl[batch.chosen].detach()
        return -logsigmoid(self.beta * (batch.margin - self.alpha * beyond))

"""TDPO: DPO with the KL of every token. Zeng et al. 2024, https://arxiv.org/abs/2404.11999.

SeqKL is the sum over an answer's tokens of KL(π_ref ‖ π_θ), exact, over the whole vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Tdpo1(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("reference_kl",)

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h − β (SeqKL_l − SeqKL_w))."""
        kl = batch.totals(batch.statistics["reference_kl"])
        return -logsigmoid(self.beta * (batch.margin - (kl[batch.rejected] - kl[batch.chosen])))

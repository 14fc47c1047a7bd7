"""CPO: DPO without a reference, held by the likelihood. Xu et al. 2024, https://arxiv.org/abs/2401.08417.

1. The reference is taken to be uniform, so that its terms cancel and none is run.
2. The likelihood is a mean over tokens, then over answers, and only of answers that a person preferred, as in `sft`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Needs, Objective


class Cpo(Objective):
    needs: ClassVar[Needs] = Needs.PAIRS
    beta: float = Field(0.1, gt=0)
    """Of the whole answers' log-probabilities."""
    nll_weight: float = Field(1.0, ge=0)
    """α of the likelihood."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β (log π_w − log π_l)) − α log π_w/|y_w|."""
        totals = batch.totals(batch.logprobs)
        contrast = -logsigmoid(self.beta * (totals[batch.chosen] - totals[batch.rejected]))
        return contrast - self.nll_weight * batch.mean_logprobs[batch.chosen] * batch.endorsed

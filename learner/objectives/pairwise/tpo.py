"""TPO: a pair and the gold answer in one step. Saeidi et al. 2024, https://arxiv.org/abs/2405.16681.

1. Gold is what a person typed in the answers' place (a correction): their own, else somebody's, else the chosen answer.
2. There is no reference, and the likelihood is a mean over tokens, then over answers; it is left out for pairs that no
   person made.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Needs, Objective


class Tpo(Objective):
    needs: ClassVar[Needs] = Needs.PAIRS
    beta: float = Field(0.01, gt=0)
    """Of the whole answers' log-probabilities."""
    nll_weight: float = Field(1.0, ge=0)
    """α of the gold answer's likelihood."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β (log π_w − log π_l)) − α log π_gold/|y_gold|."""
        totals = batch.totals(batch.logprobs)
        gold = batch.chosen if batch.gold is None else batch.gold
        contrast = -logsigmoid(self.beta * (totals[batch.chosen] - totals[batch.rejected]))
        return contrast - self.nll_weight * batch.mean_logprobs[gold] * batch.endorsed

"""ORPO: likelihood and odds ratio in one, without a reference. Hong et al. 2024, https://arxiv.org/abs/2403.07691.

1. p is the geometric mean of an answer's token probabilities; its odds are p/(1−p).
2. The likelihood counts only for answers that a person preferred, as in `sft`.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Needs, Objective

CERTAIN: Final = -1e-6
"""A mean log-probability above this counts as this: the odds of what is certain are infinite."""


class Orpo(Objective):
    needs: ClassVar[Needs] = Needs.PAIRS
    odds_weight: float = Field(0.1, gt=0)
    """λ of the odds ratio."""

    def losses(self, batch: Batch) -> Tensor:
        """−log π_w/|y_w| − λ log σ(log odds(p_w) − log odds(p_l))."""
        mean = batch.mean_logprobs
        odds = _log_odds(mean)
        contrast = -logsigmoid(odds[batch.chosen] - odds[batch.rejected])
        return self.odds_weight * contrast - mean[batch.chosen] * batch.endorsed


def _log_odds(logprobs: Tensor) -> Tensor:
    """Stable on both sides: log(1 − e^x) by expm1 for likely answers, by log1p for unlikely ones."""
    values = logprobs.clamp(max=CERTAIN)
    likely = values > -0.6931
    absent = torch.where(
        likely,
        torch.log(-torch.expm1(torch.where(likely, values, values.new_tensor(-0.5)))),
        torch.log1p(-torch.exp(torch.where(likely, values.new_tensor(-1.0), values))),
    )
    return values - absent

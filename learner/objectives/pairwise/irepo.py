"""iREPO: the margin is the logit of how many agree. Le et al. 2024, https://arxiv.org/abs/2405.15230.

1. By Bradley and Terry P(w ≻ l) = σ(r_w − r_l), so r_w − r_l is the logit of P; the reward of the policy that is best
   under a KL to the reference is β Δ up to what both answers share. The margin β h is regressed on the logit.
2. P is estimated by the opinions of several annotators on the same two answers. With `prior` ½ on each side the logit
   of a few opinions is finite and nearly without bias (Haldane 1956, Anscombe 1956). The paper ranks more answers
   than two by Zermelo's iterations, which for two is the same share.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Implicit, Needs
from learner.objectives.pairwise.agreement import agreement


class Irepo(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    prior: float = Field(0.5, gt=0)
    """Opinions that each side begins with: one person alone makes P ¾, and the target 1.1."""

    def losses(self, batch: Batch) -> Tensor:
        """(log(P/(1−P)) − β h)², P the share of the opinions on the two answers that say so."""
        return (torch.logit(agreement(batch, self.prior)) - self.beta * batch.margin).square()

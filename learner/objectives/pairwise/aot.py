"""AOT: the margins as a whole dominate the reference's. Melnyk et al. 2024, https://arxiv.org/abs/2406.05882.

First-order stochastic dominance by optimal transport, which in one dimension is sorting: the margin of each pair is
compared with the reference's margin of the same rank. The ranks are those among the pairs that run together on one
process; a pair alone has plain DPO.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Aot(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """ε: labels are wrong with this probability."""

    def losses(self, batch: Batch) -> Tensor:
        """−(1−ε) log σ(β q) − ε log σ(−β q), q = log π_w/π_l − the equally ranked log π_ref,w/π_ref,l."""
        policy, reference = (
            totals[batch.chosen] - totals[batch.rejected]
            for totals in (batch.totals(batch.logprobs), batch.totals(batch.reference))
        )
        ranks = policy.detach().argsort(stable=True).argsort(stable=True)
        logit = self.beta * (policy - reference.sort().values[ranks])
        return -(1 - self.label_smoothing) * logsigmoid(logit) - self.label_smoothing * logsigmoid(-logit)

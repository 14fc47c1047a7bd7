"""The conditional preference of mDPO and its kin: the same answer, under the right image and under another.

By Bradley and Terry on the implicit reward r(v, x, y) = β log π(y|v, x)/π_ref(y|v, x) + β log Z(v, x), the right image
v is preferred to v′ with probability σ(β[Δ(y|v) − Δ(y|v′)]), if log Z is taken to be alike for both, as all of them do.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit

ViewName = Literal["crop", "blur", "retrieve"]


class Conditional(Implicit):
    view: ViewName

    @property
    def views(self) -> tuple[str, ...]:
        return (self.view,)

    def conditional(self, batch: Batch) -> Tensor:
        """−log σ(β[Δ(y_w|v) − Δ(y_w|v′)]), (N,). 0 for pairs that have no other image, or that no person chose."""
        terms = batch.logprobs.new_zeros(len(batch.chosen))
        view = batch.views.get(self.view)
        if view is None:
            return terms
        chosen = batch.delta[batch.chosen]
        said = -logsigmoid(self.beta * (chosen[view.pairs] - view.delta)) * batch.endorsed[view.pairs]
        return terms.index_add(0, view.pairs, said)

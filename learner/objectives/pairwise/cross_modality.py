"""MMed-RAG's cross-modality alignment: no answer without looking. Xia et al. 2024, https://arxiv.org/abs/2410.13085.

Its pairs prefer an answer given the right image to the same answer given a noised, unrelated one: who still gives it
there has not looked. So in −log σ(β log π(y_w|v)/π_ref(y_w|v) − β log π(y_l|v*)/π_ref(y_l|v*)) both answers are the
chosen one, and the loss is the conditional term alone: put it beside an objective on the answers, as `sigmoid`. Pairs
without images, and pairs that no person chose, teach nothing here.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from learner.objectives.base import Batch, Needs
from learner.objectives.pairwise.conditional import Conditional, ViewName


class CrossModality(Conditional):
    needs: ClassVar[Needs] = Needs.PAIRS
    view: ViewName = "blur"

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β [Δ(y_w|v) − Δ(y_w|v*)])."""
        return self.conditional(batch)

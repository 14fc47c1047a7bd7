"""mDPO: the answer must depend on the image. Wang et al. 2024, https://arxiv.org/abs/2406.11839.

1. The chosen answer is run once more under images cropped to almost nothing (augmentation `crop`).
2. The two added terms ask for more of the chosen answer; they leave out pairs that no person chose.
3. Pairs without images have no conditional term.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class Mdpo(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    views: ClassVar[tuple[str, ...]] = ("crop",)
    anchor: float = Field(0.0)
    """δ: the implicit reward βΔ_w that the chosen answer shall have at least."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h) − log σ(β [Δ(y_w|v) − Δ(y_w|v_crop)]) − log σ(β Δ_w − δ)."""
        chosen = batch.delta[batch.chosen]
        losses = -logsigmoid(self.beta * batch.margin) - batch.endorsed * logsigmoid(self.beta * chosen - self.anchor)
        view = batch.views.get("crop")
        if view is None:
            return losses
        conditional = -logsigmoid(self.beta * (chosen[view.pairs] - view.delta)) * batch.endorsed[view.pairs]
        return losses.index_add(0, view.pairs, conditional)

"""mDPO: the answer must depend on the image. Wang et al. 2024, https://arxiv.org/abs/2406.11839.

1. The chosen answer is run once more under changed images: cropped to almost nothing, or the option `view`.
2. The two added terms ask for more of the chosen answer; they leave out pairs that no person chose.
3. Pairs without images have no conditional term.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Needs
from learner.objectives.pairwise.conditional import Conditional, ViewName


class Mdpo(Conditional):
    needs: ClassVar[Needs] = Needs.PAIRS
    view: ViewName = "crop"
    anchor: float = Field(0.0)
    """δ: the implicit reward βΔ_w that the chosen answer shall have at least."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h) − log σ(β [Δ(y_w|v) − Δ(y_w|v_crop)]) − log σ(β Δ_w − δ)."""
        anchored = -logsigmoid(self.beta * batch.delta[batch.chosen] - self.anchor) * batch.endorsed
        return self.conditional(batch) + anchored - logsigmoid(self.beta * batch.margin)

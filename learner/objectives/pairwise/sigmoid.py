"""DPO. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7. With `sft` beside it, it is RPO.

`f_divergence` puts another divergence in the reverse KL's place: Δ becomes s(Δ) = f'(e^Δ), without the constants, which
a margin does not see. Wang et al. 2023, "Beyond Reverse KL", https://arxiv.org/abs/2309.16240.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs

MOST: Final = 80.0
"""Of an exponent: its exponential is still a number in every dtype but float16. Beyond, the score does not grow."""


class Sigmoid(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """What keeps the policy near the reference. s: Δ; −e^(−Δ); log σ(Δ); e^((α−1)Δ)/(α−1)."""
    alpha: float = Field(0.5, gt=0, lt=1)
    """α of the α-divergence: near 0 as the forward KL, near 1 as the reverse."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β h); with another divergence −log σ(β [s(Δ_w) − s(Δ_l)])."""
        score = self._score(batch.delta)
        return -logsigmoid(self.beta * (score[batch.chosen] - score[batch.rejected]))

    def _score(self, delta: Tensor) -> Tensor:
        match self.f_divergence:
            case "reverse_kl":
                return delta
            case "forward_kl":
                return -torch.exp((-delta).clamp(max=MOST))
            case "js_divergence":
                return logsigmoid(delta)
            case "alpha_divergence":
                return torch.exp(((self.alpha - 1) * delta).clamp(max=MOST)) / (self.alpha - 1)

"""SPPO: each answer's own ratio is its probability to win. Wu et al. 2024, https://arxiv.org/abs/2405.00675.

1. The multiplicative update π_{t+1} ∝ π_t e^{ηP} makes log π_θ/π_t − η (P − ½) zero; the square is that, with β = 1/η.
2. P(w ≻ l) is here what people said of the two answers, smoothed (`prior`), where the paper asks a preference model.
3. The paper plays against the previous iterate: `reference = "previous"`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective
from learner.objectives.pairwise.agreement import agreement


class Sppo(Objective):
    needs: ClassVar[Needs] = Needs.PAIRS
    beta: float = Field(1e-3, gt=0)
    """1/η: a larger one keeps the policy nearer."""
    prior: float = Field(0.5, gt=0)
    """Opinions that each side begins with: one person alone makes P ¾."""

    def losses(self, batch: Batch) -> Tensor:
        """½ [(Δ_w − (P − ½)/β)² + (Δ_l + (P − ½)/β)²]."""
        target = (agreement(batch, self.prior) - 0.5) / self.beta
        chosen, rejected = batch.delta[batch.chosen], batch.delta[batch.rejected]
        return ((chosen - target).square() + (rejected + target).square()) / 2

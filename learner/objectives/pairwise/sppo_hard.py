"""SPPO with hard wins: each answer's own ratio is a target. Wu et al. 2024, https://arxiv.org/abs/2405.00675, eq. 4.7.

Every pair counts as a sure win: P is 1 for the chosen answer, 0 for the rejected one (`sppo`: as often as it was said).
The paper plays against the previous iterate: `reference = "previous"`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective


class SppoHard(Objective):
    needs: ClassVar[Needs] = Needs.PAIRS
    beta: float = Field(1e-3, gt=0)
    """1/η: the targets are ±1/(2β), so a larger one keeps the policy nearer. The paper's with TRL's name."""

    def losses(self, batch: Batch) -> Tensor:
        """(Δ_w − ½/β)² + (Δ_l + ½/β)²."""
        target = 0.5 / self.beta
        return (batch.delta[batch.chosen] - target).square() + (batch.delta[batch.rejected] + target).square()

"""MNPO: a game against the policies that came before. Wu et al. 2025, https://arxiv.org/abs/2509.23102, TD-MNPO.

1. m is log of y_w's probability over y_l's under a policy. At the equilibrium of the regularised game the margin
   exceeds that of reference and opponents by 1/(2η), as in IPO and INPO; c, η and λ are the authors' defaults.
2. The opponents are the policy at the round's beginning and base, the first of all; adapters between them are not
   held. The main reference is the regulariser.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective


class Mnpo(Objective):
    needs: ClassVar[Needs] = Needs.PAIRS
    references: ClassVar[tuple[str, ...]] = ("previous", "base")
    eta: float = Field(0.0075, gt=0)
    """η: a larger one keeps the policy nearer; 1/(2η) is in nats of the whole answers."""
    ratio: float = Field(1 / 3, ge=0, le=1)
    """c: of the reference; the opponents share the rest."""
    previous_weight: float = Field(1.0, gt=0)
    """λ of the policy at the round's beginning; only its ratio to `base_weight` counts."""
    base_weight: float = Field(0.0, ge=0)
    """λ of base."""

    def losses(self, batch: Batch) -> Tensor:
        """(m_θ − c m_ref − (1−c) Σ_j λ_j m_j − 1/(2η))², m = log π(y_w)/π(y_l)."""
        share = self.base_weight / (self.previous_weight + self.base_weight)
        previous, base = (_margin(batch, batch.references[name]) for name in self.references)
        history = (1 - share) * previous + share * base
        reference = self.ratio * _margin(batch, batch.reference) + (1 - self.ratio) * history
        return (_margin(batch, batch.logprobs) - reference - 1 / (2 * self.eta)).square()


def _margin(batch: Batch, logprobs: Tensor) -> Tensor:
    totals = batch.totals(logprobs)
    return totals[batch.chosen] - totals[batch.rejected]

"""DAPO: every token weighs the same, and the upper clip is higher. Yu et al. 2025, https://arxiv.org/abs/2503.14476.

The tokens that are counted are those of all data that the round learns from, as TRL counts those of a generation
batch; `bnpo` counts those of the step. Its dynamic sampling is the same here as everywhere: a group whose rewards
are all alike is left out.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from learner.objectives.policy_gradient.base import Clipped, Drawn


class Dapo(Clipped):
    epsilon_high: float | None = Field(0.28, gt=0)

    def aggregate(self, losses: Tensor, rows: Drawn) -> Tensor:
        """The sum over the answer's tokens by the mean length in the round."""
        return losses.sum(-1) / rows.rewarded.round_length

"""PPO-clip without a critic: the group's mean is the baseline, and tokens are averaged over the step.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7. There is no value head to learn and no
advantage of its own for each token, because rewards come at an answer's end only.
"""

from __future__ import annotations

from torch import Tensor

from learner.objectives.policy_gradient.base import Clipped, Drawn


class Ppo(Clipped):
    advantage: str = "centred"

    def aggregate(self, losses: Tensor, rows: Drawn) -> Tensor:
        """The sum over the answer's tokens by the mean length in the optimiser step."""
        return losses.sum(-1) / rows.rewarded.step_length

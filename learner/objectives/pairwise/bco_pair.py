"""BCO on a pair: a classifier of good and bad answers. Jung et al. 2024, https://arxiv.org/abs/2404.04656.

The paper shifts the reward by its mean δ, a moving average over the steps before; TRL 1.x has δ = 0. With `shift`,
δ is the mean of this very batch, detached, so that nothing is kept between steps: half the mean reward of chosen, half
that of rejected answers. A batch is here what runs together on one process.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from learner.objectives.base import Batch, Implicit, Needs


class BcoPair(Implicit):
    needs: ClassVar[Needs] = Needs.PAIRS
    shift: bool = False
    """Whether the reward is shifted by its mean δ."""

    def losses(self, batch: Batch) -> Tensor:
        """−log σ(β Δ_w − δ) − log σ(−(β Δ_l − δ))."""
        reward = self.beta * batch.delta
        chosen, rejected = reward[batch.chosen], reward[batch.rejected]
        delta = (chosen.mean() + rejected.mean()).detach() / 2 if self.shift else 0.0
        return -logsigmoid(chosen - delta) - logsigmoid(delta - rejected)

"""BNPO: the token mean over the batch, whatever its answers' lengths. TRL, https://huggingface.co/docs/trl/grpo_trainer."""

from __future__ import annotations

from torch import Tensor

from learner.objectives.policy_gradient.base import Clipped, Drawn


class Bnpo(Clipped):
    def aggregate(self, losses: Tensor, rows: Drawn) -> Tensor:
        """The sum over the answer's tokens by the mean length in the optimiser step."""
        return losses.sum(-1) / rows.rewarded.step_length

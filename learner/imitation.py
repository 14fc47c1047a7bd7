"""What a round begins with where `sft_share` is set: the likelihood of what people found good, and nothing else.

Raghavendra et al. 2025, https://arxiv.org/abs/2502.11284: a small share of supervised steps before those on preferences
spares these a cold start. The paper divides a budget of data. Here the same signals serve both: its supervised examples
are the chosen answers, corrections and thumbs up that the round has anyway. Labels are believed as they are: what the
policy thinks of them says little before it has learned from any.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from learner.objectives import Batch, Needs, Objective
from learner.objectives.pairwise.sft import Sft
from learner.recipe import Recipe


class Liked(Objective):
    """`sft` of thumbs up."""

    needs: ClassVar[Needs] = Needs.UNPAIRED

    def losses(self, batch: Batch) -> Tensor:
        """−log π_θ(y|x) / |y| of what is desirable, 0 of the rest."""
        return -batch.mean_logprobs[batch.unpaired] * batch.desirable


def imitation(beta: float) -> Recipe:
    return Recipe(((1.0, Sft()), (1.0, Liked())), beta, {})

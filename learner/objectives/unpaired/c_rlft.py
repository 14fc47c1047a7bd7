"""C-RLFT: imitate answers by class, and serve the good one. Wang et al. 2023, https://arxiv.org/abs/2309.11235.

A start from logs of mixed quality: what is undesirable still teaches the language of the domain, with a small weight,
without being what the policy says when it is asked as always. The paper's optimum of reward-weighted, class-conditioned
learning is this weighted likelihood; there is no reference and no pair in it.

1. The expert class is the ordinary prompt, so serving needs no change. The other class has a marker behind the prompt:
   the same branch of the shared prefix, one token later (`learner.batch`). By default that token is the prompt's first
   one, with which a chat template opens and no answer begins.
2. The marker itself is not learned: the policy does not become likelier to say it.
3. An answer that may never be a positive (blocked, redacted) is not imitated, not even as what is undesirable.
4. Log-probabilities are means over an answer's tokens, as in `sft`, so that long answers do not outweigh short ones.
5. A weighting that turns labels round (`lcpo`) only takes weight away here: an answer of which it is not sure that it
   is bad would else be imitated as a good one.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective


class CRlft(Objective):
    needs: ClassVar[Needs] = Needs.UNPAIRED
    desirable_weight: float = Field(1.0, gt=0)
    """The reward r of the expert class."""
    undesirable_weight: float = Field(0.1, ge=0)
    """The reward r of the other class."""
    marker: tuple[int, ...] = ()
    """Token ids of the other class's marker; none: the prompt's first token."""

    def losses(self, batch: Batch) -> Tensor:
        """−r_c log π_θ(y|x, c) / |y|, r 1 for desirable answers, .1 for undesirable ones behind their marker c."""
        likely = batch.mean_logprobs
        expert = -self.desirable_weight * likely[batch.unpaired]
        if batch.marked is None:  # the labels are turned round
            return expert * 0
        has_marked = (batch.marked >= 0) & batch.may_be_positive[batch.unpaired]
        other = -self.undesirable_weight * likely[batch.marked.clamp(min=0)] * has_marked
        return torch.where(batch.desirable, expert, other)

"""GFlowNet-DPO: answers in proportion to their rewards. Kwon et al. 2024, https://arxiv.org/abs/2410.15096.

The paper calls it GDPO; it keeps answers diverse, where DPO goes for the best one alone.

A GFlowNet's state is a beginning s_t of the answer, and from each it may end (⊤) or say one token more. Flows F balance
in detail where F(s_t) π(y_{t+1}|s_t) = F(s_{t+1}), every state having one parent. Ending is worth
F(s_t) π(⊤|s_t) = R(s_t), so F(s_t) = R(s_t) / π(⊤|s_t). With R(s_t) = π_ref(s_t) π_ref(⊤|s_t), times exp(α·score) for
the whole answer, and e_t = log π_θ(⊤|s_t) − log π_ref(⊤|s_t), δ_t the log-ratio of the token behind s_t, the residual
of a step is log F(s_t) + log π_θ − log F(s_{t+1}) = δ_t + e_{t+1} − e_t, less α·score at the last one. The sum over an
answer telescopes to Δ = α·score + e_0: the log-partition is what the policy gives to ending at once.

1. The score is −8 for the worst answer of a group and 0 for the best, as the authors' code has it for rejected and
   chosen ones; those between lie between, by their reward.
2. That code takes the reference's log-probability of the next token for R where the product over all tokens belongs,
   and sharpens its π_ref(⊤) by a temperature (γ = .1). Here both are what the derivation says.
3. A step's residual teaches that step: the score at the end reaches the first tokens over many updates. `trajectory`
   squares their sum in place of each (trajectory balance, Malkin et al. 2022, https://arxiv.org/abs/2201.13259): the
   same flows balance, and every token learns from the score at once.
4. The last token ends the answer: the score stands at the step that leads in front of it, for a cut answer as well.
5. An answer that may never be a positive is left out: balance could make it likelier.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective
from learner.objectives.listwise.ranks import relevance

WORST: Final = -8.0
"""Score of a group's worst answer, in nats before α."""


class GfnDpo(Objective):
    needs: ClassVar[Needs] = Needs.REWARDED
    alpha: float = Field(0.1, gt=0)
    """α: how much the reward says beside the reference."""
    balance: Literal["detailed", "trajectory"] = "detailed"
    """Whether each step has to balance, or the answer as a whole."""

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("end_ratio",)

    def losses(self, batch: Batch) -> Tensor:
        """Σ_t (δ_t + e_{t+1} − e_t − α·score·[last])², or (Σ_t …)², e_t the log-ratio of ending at t, score −8 (worst)
        to 0.
        """
        if batch.rewarded is None:
            return batch.logprobs.new_zeros(0)
        answers = batch.rewarded.answers
        mask = batch.mask[answers]
        steps = mask[:, 1:]  # from every token that has one behind it
        ends = batch.statistics["end_ratio"][answers].masked_fill(~mask, 0.0)
        ratios = (batch.logprobs - batch.reference)[answers].masked_fill(~mask, 0.0)
        is_last = steps & ~torch.cat([steps[:, 1:], torch.zeros_like(steps[:, :1])], dim=-1)
        scores = WORST * (1 - relevance(batch.rewarded.rewards.to(ratios.dtype), batch.rewarded.groups))
        residuals = (ratios[:, :-1] + ends[:, 1:] - ends[:, :-1] - self.alpha * scores[:, None] * is_last) * steps
        errors = residuals.square().sum(-1) if self.balance == "detailed" else residuals.sum(-1).square()
        return errors * batch.may_be_positive[answers]

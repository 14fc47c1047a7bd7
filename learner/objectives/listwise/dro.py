"""DRO: an expert's answer against what the policy says itself, by a margin. Wu et al. 2025, https://arxiv.org/abs/2510.18353.

Diffusion-DRO is inverse reinforcement learning without a reward model: the implicit reward of an expert's demonstration
shall be above that of the policy's own samples. Its loss is max(0, m + (ℓ_e − ℓ_e,ref) − (ℓ_p − ℓ_p,ref)) with the
denoising errors ℓ of expert and policy; the negative log-likelihood of an answer takes the place of the error, so
ℓ − ℓ_ref is −Δ. No sigmoid: its saturation is what the paper removes.

1. The expert is the best answer of a group (of equals the first): a stored success (`success_below`), what people
   ranked first (`rank_rewards`), or the best that was drawn. The others are its negatives; with `rollout_groups` they
   are online, drawn by the policy of the moment, as the paper's are.
2. Errors are means over an image, so Δ is a mean over an answer's tokens.
3. The margin is in nats a token; the paper's .001 is in squared noise.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective
from learner.objectives.listwise.ranks import better, places


class Dro(Objective):
    needs: ClassVar[Needs] = Needs.REWARDED
    margin: float = Field(0.1, ge=0)
    """m, in nats a token: a negative that lies further below the expert teaches nothing more."""

    def losses(self, batch: Batch) -> Tensor:
        """max(0, m − (Δ_e/|y_e| − Δ_i/|y_i|)) for each answer i that is worse than its group's expert e, 0 for e."""
        if batch.rewarded is None:
            return batch.logprobs.new_zeros(0)
        answers, rewards, groups = batch.rewarded.answers, batch.rewarded.rewards, batch.rewarded.groups
        delta = batch.delta[answers] / batch.lengths[answers]
        is_expert = places(rewards, groups) == 1
        beaten = (better(rewards, groups) & is_expert[:, None]).to(delta.dtype)  # (expert, negative)
        gaps = (delta[:, None] - delta[None]) * beaten
        return ((self.margin - gaps).clamp(min=0) * beaten).sum(0)

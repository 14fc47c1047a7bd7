"""RLOO: each answer is one action, and its siblings are its baseline.

Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, with TRL's clip of the answer's whole ratio.

1. The whole ratio, and the correction, are of the answer: products over its tokens, not means.
2. A KL penalty (`kl`) is added to the loss at each token and averaged; TRL takes the answer's off the reward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.objectives.policy_gradient.base import Clipped, Drawn


class Rloo(Clipped):
    advantage: str = "leave_one_out"

    def _ratio(self, rows: Drawn) -> Tensor:
        return torch.exp((rows.logprobs - rows.old).sum(-1))[:, None]

    @torch.no_grad()
    def correction(self, rows: Drawn) -> Tensor:
        """min(π_old/π_sampled of the answer, tis), 0 where it is too far off. (R, 1)."""
        whole = torch.exp((rows.old - rows.sampled).sum(-1, keepdim=True))
        return whole.clamp(max=self.tis) * (whole <= self.sequence_mask)

"""ETPO: credit for each token, by a soft Bellman backup. Wen et al. 2024, https://arxiv.org/abs/2402.06700.

The paper maximises reward less β KL(π ‖ π_ref) at every token, π_ref being the language model that it starts from. Its
backup goes from token to token: behind y_t stands Q(s_t, y_t) = E_π[Q(s_{t+1}, ·)] − β KL(π ‖ π_ref)(s_{t+1}), behind
the last one the reward; and the policy moves towards π_ref exp(Q/β). Unrolled along a drawn answer Q is
r − β Σ_{k>t} log(π/π_ref)_k. Moving towards π_ref exp(Q/β) asks for the token's own term too, so the policy gradient
has the return r − β Σ_{k≥t}: a token answers for how far all that is said after it strays from the reference. A bonus
on entropy, or `kl`, sees each token's own distribution only.

1. The paper learns Q by a second network over the whole vocabulary. There is none here: Q is the sampled return above,
   whose expectation it is, and its baseline the mean of the group at the same token, over those that go on so long.
2. log(π/π_ref) is that of the policy as it is, detached; the ratio to π_old is clipped as in PPO.
3. The reward's part is the advantage that `advantage` names.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from learner.objectives.policy_gradient.base import Clipped, Drawn


class Etpo(Clipped):
    beta: float = Field(0.05, ge=0)
    """β: what a nat of distance from the reference costs, in units of the advantage."""

    def token_losses(self, rows: Drawn, ratio: Tensor, advantages: Tensor) -> Tensor:
        """−min(ρ A_t, clip(ρ) A_t), A_t = A − β (K_t − its group's mean), K_t = Σ_{k≥t} sg[log(π_θ/π_ref)]_k."""
        return super().token_losses(rows, ratio, advantages - self.beta * _strayed(rows))


@torch.no_grad()
def _strayed(rows: Drawn) -> Tensor:
    """K_t less the mean of its group at the same token, over the answers that go on so long. (R, T), 0 outside."""
    strayed = (rows.logprobs - rows.reference).flip(-1).cumsum(-1).flip(-1) * rows.mask
    together = (rows.rewarded.groups[:, None] == rows.rewarded.groups[None]).to(strayed.dtype)
    means = together @ strayed / (together @ rows.mask.to(strayed.dtype)).clamp(min=1)
    return (strayed - means) * rows.mask

"""ETPO: credit for each token, by a soft Bellman backup. Wen et al. 2024, https://arxiv.org/abs/2402.06700.

The paper maximises reward less β KL(π ‖ ρ) at every token, ρ being the language model that it starts from. Its backup
goes from token to token: behind y_t stands Q(s_t, y_t) = E_π[Q(s_{t+1}, ·)] − β KL(π ‖ ρ)(s_{t+1}), the reward behind
the last one, and the policy moves towards ρ exp(Q/β). Unrolled along a drawn answer, Q is r − β Σ_{k>t} log(π/ρ)_k;
with the token's own term, which moving towards ρ exp(Q/β) asks for, the policy gradient has the return r − β Σ_{k≥t}.
So a token answers for how far everything said after it strays from the reference. A bonus on entropy, or `kl`, sees
each token's own distribution only.

1. The paper learns Q by a second network over the whole vocabulary. There is none here: Q is the sampled return above,
   whose expectation it is, and its baseline the mean of the group at the same token, over those that go on so long.
2. log(π/ρ) is that of π_old and the main reference, detached; ρ = π_θ/π_old is clipped as in PPO.
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

    @torch.no_grad()
    def token_advantages(self, rows: Drawn) -> Tensor:
        """A − β (K_t − mean of the group's K_t), K_t = Σ_{k≥t} log(π_old/π_ref) of token k."""
        strayed = (rows.old - rows.reference).flip(-1).cumsum(-1).flip(-1) * rows.mask
        together = (rows.rewarded.groups[:, None] == rows.rewarded.groups[None]).to(strayed.dtype)
        means = together @ strayed / (together @ rows.mask.to(strayed.dtype)).clamp(min=1)
        return super().token_advantages(rows) - self.beta * (strayed - means) * rows.mask

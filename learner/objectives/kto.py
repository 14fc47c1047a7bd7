"""KTO: thumbs without a counterpart. Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, eq. 8.

The reference point z estimates KL(π_θ ‖ π_ref) from mismatched pairs, as the paper and TRL do: some groups'
rows carry one more branch, an answer that was given to another prompt. z is their mean Δ, at least 0 and
detached; without a mismatched answer in the micro-batch (a single group) it is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.objectives.base import Batch, Options


def kto(batch: Batch, options: Options) -> Tensor:
    """λ_D (1 − σ(β(Δ − z))) for desirable answers, λ_U (1 − σ(β(z − Δ))) for undesirable ones."""
    delta = batch.delta
    reference_point = _reference_point(delta.detach()[batch.mismatched])
    gap = options.beta * (delta[batch.unpaired] - reference_point)
    desirable = options.desirable_weight * (1 - torch.sigmoid(gap))
    undesirable = options.undesirable_weight * (1 - torch.sigmoid(-gap))
    return torch.where(batch.desirable, desirable, undesirable)


def _reference_point(mismatched: Tensor) -> Tensor:
    return mismatched.mean().clamp(min=0) if len(mismatched) else mismatched.new_zeros(())


def balance(desirable: float, undesirable: float, most: float = 8.0) -> tuple[float, float]:
    """(λ_D, λ_U) for these amounts of examples: λ_D n_D : λ_U n_U comes into [1, 4/3], as the paper advises.

    The scarcer kind is raised; never above `most`, so that a single thumb cannot rule a round.
    """
    if desirable <= 0 or undesirable <= 0:
        return 1.0, 1.0
    ratio = desirable / undesirable
    if ratio < 1:
        return min(most, 1 / ratio), 1.0
    return 1.0, min(most, max(1.0, ratio * 3 / 4))

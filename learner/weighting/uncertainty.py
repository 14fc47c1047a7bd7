"""Uncertainty: an example weighs as much as the policy is undecided about it.

The entropy of the policy's own probability of the label, in bits, as in uncertainty sampling (Lewis and Gale 1994,
https://arxiv.org/abs/cmp-lg/9407020): 1 for what it cannot tell, towards 0 for what it knows, and for what it
firmly disagrees with, which is more often a wrong label than a lesson.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.weighting.base import Shares


@dataclass(frozen=True, slots=True)
class Uncertainty:
    learns: bool = False
    needs_dropout: bool = False

    def shares(self, agreement: Tensor, reliability: Tensor) -> Shares:
        """[−p log₂ p − (1 − p) log₂(1 − p)] ℓ: `keep` is what stands before ℓ."""
        entropy = torch.special.entr(agreement) + torch.special.entr(1 - agreement)
        return Shares(entropy / torch.log(entropy.new_tensor(2.0)), None)

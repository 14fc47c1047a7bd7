"""LCPO: which labels are right is inferred while learning (EM), with one reliability for each annotator.

Latent Collective Preference Optimization, https://arxiv.org/abs/2509.24159 (RE-PO in its third version):
w = pη / (pη + (1 − p)(1 − η)), detached; loss w·ℓ + (1 − w)·ℓ of the opposite label, which for DPO is
−[w log p + (1 − w) log(1 − p)]; η ← .9 η + .1 mean(w), from .9.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from learner.weighting.base import Shares


@dataclass(frozen=True, slots=True)
class Lcpo:
    learns: bool = True
    needs_dropout: bool = False

    def shares(self, agreement: Tensor, reliability: Tensor) -> Shares:
        """ℓ w + ℓ(opposite label) (1 − w), w = pη / (pη + (1 − p)(1 − η)): `keep` is w, `flip` is 1 − w."""
        right = agreement * reliability
        keep = right / (right + (1 - agreement) * (1 - reliability))
        return Shares(keep, 1 - keep)

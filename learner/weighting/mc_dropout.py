"""UPO: the less the policy agrees with itself, the less a label counts. Wang et al. 2024, https://arxiv.org/abs/2409.11212.

BALD (Houlsby et al. 2011, https://arxiv.org/abs/1112.5745) over passes in which parts of the adapter are dropped (Gal
and Ghahramani 2016, https://arxiv.org/abs/1506.02142): what the passes are unsure of together, less what each is unsure
of alone. It is high where they are sure of opposite things, and low where all are undecided: such a label still
teaches. UPO draws pairs in proportion to 1 − BALD; here they weigh so, which is the same in the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.weighting.base import Shares


@dataclass(frozen=True, slots=True)
class McDropout:
    learns: bool = False
    needs_dropout: bool = True

    def shares(self, agreement: Tensor, reliability: Tensor) -> Shares:
        """`keep` is 1 − [H(mean p) − mean H(p)], H in bits."""
        return Shares(1 - (_entropy(agreement.mean(0)) - _entropy(agreement).mean(0)), None)


def _entropy(p: Tensor) -> Tensor:
    nats: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return nats / math.log(2)

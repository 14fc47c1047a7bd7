"""How much each label is believed: one small file each, one row in the table. `none`, by absence, believes all.

A weighting sees the policy's own probability of every label that a person gave and the annotator's reliability, and
says how much of the example's loss, and of the opposite label's, counts (`base.Shares`). It fits every objective on
pairs or thumbs. What rules and scorers say is the operator's, and is always believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from learner.weighting.base import Reliabilities, Shares, Weighting
from learner.weighting.lcpo import Lcpo
from learner.weighting.mc_dropout import McDropout
from learner.weighting.uncertainty import Uncertainty

WEIGHTINGS: Final[Mapping[str, Weighting]] = {
    "lcpo": Lcpo(),
    "uncertainty": Uncertainty(),
    "mc_dropout": McDropout(),
}

__all__ = ["WEIGHTINGS", "Reliabilities", "Shares", "Weighting"]

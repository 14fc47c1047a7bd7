"""Losses on pairs: chosen and rejected answers to the same question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from learner.objectives.base import Objective
from learner.objectives.pairwise.aot import Aot
from learner.objectives.pairwise.apo_down import ApoDown
from learner.objectives.pairwise.apo_zero import ApoZero
from learner.objectives.pairwise.bco_pair import BcoPair
from learner.objectives.pairwise.cdpo import Cdpo
from learner.objectives.pairwise.discopop import Discopop
from learner.objectives.pairwise.exo_pair import ExoPair
from learner.objectives.pairwise.hinge import Hinge
from learner.objectives.pairwise.ipo import Ipo
from learner.objectives.pairwise.mdpo import Mdpo
from learner.objectives.pairwise.nca_pair import NcaPair
from learner.objectives.pairwise.robust import Robust
from learner.objectives.pairwise.sft import Sft
from learner.objectives.pairwise.sigmoid import Sigmoid
from learner.objectives.pairwise.sigmoid_norm import SigmoidNorm
from learner.objectives.pairwise.simpo import Simpo

PAIRWISE: Final[Mapping[str, type[Objective]]] = {
    "sigmoid": Sigmoid,
    "ipo": Ipo,
    "hinge": Hinge,
    "cdpo": Cdpo,
    "robust": Robust,
    "exo_pair": ExoPair,
    "nca_pair": NcaPair,
    "bco_pair": BcoPair,
    "aot": Aot,
    "apo_zero": ApoZero,
    "apo_down": ApoDown,
    "discopop": Discopop,
    "sigmoid_norm": SigmoidNorm,
    "simpo": Simpo,
    "mdpo": Mdpo,
    "sft": Sft,
}

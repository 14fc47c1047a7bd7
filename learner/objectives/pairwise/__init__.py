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
from learner.objectives.pairwise.cpo import Cpo
from learner.objectives.pairwise.cross_modality import CrossModality
from learner.objectives.pairwise.discopop import Discopop
from learner.objectives.pairwise.dpop import Dpop
from learner.objectives.pairwise.exo_pair import ExoPair
from learner.objectives.pairwise.flex import Flex
from learner.objectives.pairwise.hinge import Hinge
from learner.objectives.pairwise.ipo import Ipo
from learner.objectives.pairwise.irepo import Irepo
from learner.objectives.pairwise.mdpo import Mdpo
from learner.objectives.pairwise.mnpo import Mnpo
from learner.objectives.pairwise.mrpo import Mrpo
from learner.objectives.pairwise.nca_pair import NcaPair
from learner.objectives.pairwise.orpo import Orpo
from learner.objectives.pairwise.prdp import Prdp
from learner.objectives.pairwise.rdpo import Rdpo
from learner.objectives.pairwise.robust import Robust
from learner.objectives.pairwise.sft import Sft
from learner.objectives.pairwise.sigmoid import Sigmoid
from learner.objectives.pairwise.sigmoid_norm import SigmoidNorm
from learner.objectives.pairwise.simpo import Simpo
from learner.objectives.pairwise.sppo import Sppo
from learner.objectives.pairwise.sppo_hard import SppoHard
from learner.objectives.pairwise.tdpo1 import Tdpo1
from learner.objectives.pairwise.tdpo2 import Tdpo2
from learner.objectives.pairwise.tpo import Tpo
from learner.objectives.pairwise.trpa import Trpa
from learner.objectives.pairwise.xpo import Xpo

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
    "cpo": Cpo,
    "orpo": Orpo,
    "tpo": Tpo,
    "dpop": Dpop,
    "flex": Flex,
    "tdpo1": Tdpo1,
    "tdpo2": Tdpo2,
    "sppo_hard": SppoHard,
    "sppo": Sppo,
    "irepo": Irepo,
    "trpa": Trpa,
    "mrpo": Mrpo,
    "mnpo": Mnpo,
    "xpo": Xpo,
    "prdp": Prdp,
    "mdpo": Mdpo,
    "rdpo": Rdpo,
    "cross_modality": CrossModality,
    "sft": Sft,
}

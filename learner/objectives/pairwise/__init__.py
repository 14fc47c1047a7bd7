"""Losses on pairs: chosen and rejected answers to the same question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from learner.objectives.base import Objective
from learner.objectives.pairwise.cdpo import Cdpo
from learner.objectives.pairwise.cross_modality import CrossModality
from learner.objectives.pairwise.hinge import Hinge
from learner.objectives.pairwise.ipo import Ipo
from learner.objectives.pairwise.mdpo import Mdpo
from learner.objectives.pairwise.rdpo import Rdpo
from learner.objectives.pairwise.robust import Robust
from learner.objectives.pairwise.sft import Sft
from learner.objectives.pairwise.sigmoid import Sigmoid
from learner.objectives.pairwise.simpo import Simpo

PAIRWISE: Final[Mapping[str, type[Objective]]] = {
    "sigmoid": Sigmoid,
    "ipo": Ipo,
    "hinge": Hinge,
    "cdpo": Cdpo,
    "robust": Robust,
    "simpo": Simpo,
    "mdpo": Mdpo,
    "rdpo": Rdpo,
    "cross_modality": CrossModality,
    "sft": Sft,
}

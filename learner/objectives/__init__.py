"""The losses, by the field's standard names. One small file each, one row in the table.

To add one: write `learner/objectives/NAME.py` with a subclass of `Objective` whose fields are its options and whose
`losses` gives one loss for each example of the kind it `needs`, and enter it in `OBJECTIVES`. Weights of examples,
and of the objectives among each other, are applied by `total_loss`, never inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from learner.objectives.base import Batch, Implicit, Needs, Objective, Rewarded, View
from learner.objectives.bnpo import Bnpo
from learner.objectives.cdpo import Cdpo
from learner.objectives.cispo import Cispo
from learner.objectives.dapo import Dapo
from learner.objectives.dr_grpo import DrGrpo
from learner.objectives.grpo import Grpo
from learner.objectives.hinge import Hinge
from learner.objectives.ipo import Ipo
from learner.objectives.kto import Kto
from learner.objectives.mdpo import Mdpo
from learner.objectives.npo import Npo
from learner.objectives.ppo import Ppo
from learner.objectives.rloo import Rloo
from learner.objectives.robust import Robust
from learner.objectives.sapo import Sapo
from learner.objectives.sft import Sft
from learner.objectives.sigmoid import Sigmoid
from learner.objectives.simpo import Simpo

OBJECTIVES: Final[Mapping[str, type[Objective]]] = {
    "sigmoid": Sigmoid,
    "ipo": Ipo,
    "hinge": Hinge,
    "cdpo": Cdpo,
    "robust": Robust,
    "simpo": Simpo,
    "mdpo": Mdpo,
    "sft": Sft,
    "kto": Kto,
    "npo": Npo,
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "dapo": Dapo,
    "bnpo": Bnpo,
    "cispo": Cispo,
    "sapo": Sapo,
    "rloo": Rloo,
    "ppo": Ppo,
}

__all__ = ["OBJECTIVES", "Batch", "Implicit", "Needs", "Objective", "Rewarded", "View"]

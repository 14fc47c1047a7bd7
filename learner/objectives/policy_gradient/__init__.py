"""Losses on rewards: answers of a group compete with each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from learner.objectives.base import Objective
from learner.objectives.policy_gradient.bnpo import Bnpo
from learner.objectives.policy_gradient.cispo import Cispo
from learner.objectives.policy_gradient.dapo import Dapo
from learner.objectives.policy_gradient.dr_grpo import DrGrpo
from learner.objectives.policy_gradient.etpo import Etpo
from learner.objectives.policy_gradient.grpo import Grpo
from learner.objectives.policy_gradient.ppo import Ppo
from learner.objectives.policy_gradient.rloo import Rloo
from learner.objectives.policy_gradient.sapo import Sapo

POLICY_GRADIENT: Final[Mapping[str, type[Objective]]] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "dapo": Dapo,
    "bnpo": Bnpo,
    "cispo": Cispo,
    "sapo": Sapo,
    "rloo": Rloo,
    "ppo": Ppo,
    "etpo": Etpo,
}

"""Losses on thumbs: single answers that are desirable or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from learner.objectives.base import Objective
from learner.objectives.unpaired.apo_zero import ApoZeroUnpaired
from learner.objectives.unpaired.c_rlft import CRlft
from learner.objectives.unpaired.kto import Kto
from learner.objectives.unpaired.npo import Npo

UNPAIRED: Final[Mapping[str, type[Objective]]] = {
    "kto": Kto,
    "apo_zero_unpaired": ApoZeroUnpaired,
    "npo": Npo,
    "c_rlft": CRlft,
}

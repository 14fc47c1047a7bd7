"""Losses on ranked lists: answers of a group with rewards, of which only the order or the distances count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from learner.objectives.base import Objective
from learner.objectives.listwise.dro import Dro
from learner.objectives.listwise.gfn_dpo import GfnDpo
from learner.objectives.listwise.rankdpo import RankDpo

LISTWISE: Final[Mapping[str, type[Objective]]] = {
    "rankdpo": RankDpo,
    "dro": Dro,
    "gfn_dpo": GfnDpo,
}

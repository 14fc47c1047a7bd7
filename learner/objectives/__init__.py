"""The losses, by the field's standard names. One small file each, one row in the table of its kind.

To add one: write `learner/objectives/KIND/NAME.py` with a subclass of `Objective` whose fields are its options and
whose `losses` gives one loss for each example of the kind it `needs`, and enter it in the kind's table
(`learner/objectives/KIND/__init__.py`). Weights of examples, and of the objectives among each other, are applied by
`Recipe.loss`, never inside. The docstrings are read by `plumbline methods`: the module's first line names the method
and its source, that of `losses` is the formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from learner.objectives.base import Batch, Implicit, Needs, Objective, Rewarded, View
from learner.objectives.listwise import LISTWISE
from learner.objectives.pairwise import PAIRWISE
from learner.objectives.policy_gradient import POLICY_GRADIENT
from learner.objectives.unpaired import UNPAIRED

OBJECTIVES: Final[Mapping[str, type[Objective]]] = {**PAIRWISE, **UNPAIRED, **LISTWISE, **POLICY_GRADIENT}

__all__ = ["OBJECTIVES", "Batch", "Implicit", "Needs", "Objective", "Rewarded", "View"]

"""The losses, by the field's standard names. One small file each, one line in the table.

To add one: write `learner/objectives/NAME.py` with a pure function from `Batch` and `Options` to one loss for
each pair (or each unpaired answer), and enter it in `OBJECTIVES`. Weights of examples, and of the objectives
among each other, are applied by `total_loss`, never inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective, Options
from learner.objectives.kto import kto
from learner.objectives.sft import sft
from learner.objectives.sigmoid import sigmoid

OBJECTIVES: Final[Mapping[str, Objective]] = {
    objective.name: objective
    for objective in (
        Objective("sigmoid", Needs.PAIRS, sigmoid),
        Objective("sft", Needs.PAIRS, sft),
        Objective("kto", Needs.UNPAIRED, kto),
    )
}


def total_loss(batch: Batch, weights: Mapping[str, float], options: Options, examples: int) -> Tensor:
    """Σ_objectives w · Σ_examples w_i · loss_i / `examples`.

    `examples` counts those of the whole optimiser step, pairs and unpaired together, so that micro-batches add
    up to the step's loss, and an example weighs the same whatever it happens to share a batch with.
    """
    loss = batch.logprobs.new_zeros(())
    for name, weight in weights.items():
        objective = OBJECTIVES[name]
        of_examples = batch.pair_weights if objective.needs is Needs.PAIRS else batch.unpaired_weights
        if len(of_examples):
            loss = loss + weight * (of_examples * objective.losses(batch, options)).sum() / examples
    return loss


__all__ = ["OBJECTIVES", "Batch", "Needs", "Objective", "Options", "total_loss"]

"""A step that is thrown away leaves nothing behind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from learner.examples import Example
from learner.objectives import Batch
from learner.settings import Settings
from learner.team import Team
from learner.trainer import Trainer
from learner.weighting import Reliabilities
from tests.learner.batches import make_batch

EXAMPLE = Example("g1", (2, 3), (), (), (), ())


@dataclass
class OneWeight:
    """Policy, references and collator of a model that is a single number."""

    weight: torch.nn.Parameter = field(default_factory=lambda: torch.nn.Parameter(torch.ones(())))
    team: Team = field(default_factory=Team)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"weight": self.weight}

    def follow(self) -> None:
        """No moving average."""

    def acquaintance(self, examples: Sequence[Example]) -> None:
        """Nobody to tell."""

    def lenders(self, examples: Sequence[Example]) -> set[str]:
        """An image or an answer of this group."""
        return {"g2"}

    def complete(self, examples: Sequence[Example]) -> None:
        """No references."""

    def own_parts(self, examples: Sequence[Example]) -> list[Sequence[Example]]:
        return [examples]

    def batch(self, examples: Sequence[Example], length: float) -> Batch:
        return make_batch()


@dataclass
class Told:
    """A recipe that gives these losses, and believes "ann" as far as it says, one step after the other."""

    weight: torch.nn.Parameter
    steps: Iterator[tuple[float, float]]
    beta: float = 0.1

    def loss(self, batch: Batch, reliabilities: Reliabilities, examples: int) -> Tensor:
        loss, belief = next(self.steps)
        reliabilities.note(["ann"], [belief])
        return self.weight * loss


def test_what_a_discarded_step_found_of_people_is_forgotten() -> None:
    """A loss that is no number comes with beliefs that are none: the next good step does not learn them."""
    model = OneWeight()
    recipe = Told(model.weight, iter([(math.nan, math.nan), (1.0, 0.4)]))
    parts: Any = model
    trainer = Trainer(parts, parts, Settings(), 2, recipe=recipe, references=parts)  # type: ignore[arg-type]
    assert trainer.step([EXAMPLE]) == {}
    assert trainer.progress.reasons == {"the loss is not finite": 1}
    trainer.step([EXAMPLE])
    assert trainer.progress.reliabilities == {"ann": 0.9 * 0.9 + 0.1 * 0.4}
    assert trainer.progress.groups == ["g1", "g2"], "who lent something was learned from too"

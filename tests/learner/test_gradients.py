"""The two halves of a gradient, on a policy of a few numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.errors import SettingsError
from learner.examples import Example, PairExample
from learner.gradients import Entanglement, Sides
from learner.objectives import OBJECTIVES, Batch
from learner.settings import Settings, read_settings
from learner.team import Team
from learner.trainer import Trainer
from tests.learner.batches import make_batch
from tests.learner.test_objectives import config

PAIRS = (PairExample(0, 1, 1.0, "choice", "ann"), PairExample(2, 1, 1.0, "choice", "ann"))
EXAMPLE = Example("g1", (2, 3), (), (), PAIRS, ())


@dataclass
class Linear:
    """Policy, references and collator: each answer's tokens have a log-probability that is linear in the parameters."""

    slopes: Tensor  # (answers, parameters)
    weight: torch.nn.Parameter = field(default_factory=lambda: torch.nn.Parameter(torch.zeros(3)))
    parts: int = 1
    team: Team = field(default_factory=Team)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"weight": self.weight}

    def follow(self) -> None:
        """No moving average."""

    def acquaintance(self, examples: object) -> None:
        """Nobody to tell."""

    def lenders(self, examples: object) -> set[str]:
        """Nobody."""
        return set()

    def complete(self, examples: object) -> None:
        """No references."""

    def own_parts(self, examples: object) -> list[int]:
        return list(range(self.parts))

    def batch(self, part: int = 0, length: float = 1.0) -> Batch:
        """Answers of one token; with two parts, each has one of the pairs."""
        made = make_batch()
        held = slice(None) if self.parts == 1 else slice(part, part + 1)
        return replace(
            made,
            logprobs=torch.stack([self.slopes @ self.weight - 1, torch.zeros(4)], dim=1),
            reference=torch.full((4, 2), -1.0),
            mask=torch.tensor([[True, False]] * 4),
            chosen=made.chosen[held],
            rejected=made.rejected[held],
            pair_weights=torch.ones(2)[held],
            endorsed=torch.ones(2, dtype=torch.bool)[held],
            pair_annotators=("ann", "ann")[held],
            unpaired=made.unpaired[:0],
            desirable=made.desirable[:0],
            unpaired_weights=made.unpaired_weights[:0],
            unpaired_annotators=(),
        )


ALIKE = Linear(torch.tensor([[1.0, 0.1, 0.0], [2.0, 0.0, 0.0], [1.0, 0.0, 0.1], [0.0, 0.0, 0.0]]))
"""Chosen and rejected answers are nearly the same to the policy: what lowers the rejected one lowers all."""
APART = Linear(torch.tensor([[1.0, 0.1, 0.0], [0.0, 2.0, 0.0], [1.0, 0.0, 0.1], [0.0, 0.0, 0.0]]))


def step(model: Linear, **settings: Any) -> dict[str, float]:
    parts: Any = model
    made = Settings(objectives={"sigmoid": 1.0}, weighting={}, **settings)
    trainer = Trainer(parts, parts, made, 2, recipe=made.recipe(), references=parts)
    return trainer.step([EXAMPLE])


def fresh(model: Linear, parts: int = 1) -> Linear:
    return Linear(model.slopes, parts=parts)


def moves(model: Linear, direction: Tensor) -> tuple[float, float]:
    """How the mean log-probability of chosen and of rejected answers changes along the direction."""
    changes = model.slopes @ direction
    return float(changes[[0, 2]].mean()), float(changes[1])


def test_entanglement_by_hand() -> None:
    """With g_w = (1, .05, .05) and g_l = (2, 0, 0): the inner product 2 is above ‖g_w‖² = 1.005."""
    metrics = step(fresh(ALIKE), entanglement_every=1)
    assert metrics["gradient_inner"] == pytest.approx(2.0)
    assert metrics["chosen_gradient_norm"] == pytest.approx(1.005**0.5, rel=1e-5)
    assert metrics["rejected_gradient_norm"] == pytest.approx(2.0)
    assert metrics["entangled"] == 1.0
    assert step(fresh(APART), entanglement_every=1)["entangled"] == 0.0


@pytest.mark.parametrize(("model", "together"), [(ALIKE, True), (APART, False)])
def test_entangled_pairs_move_together_unless_gradients_are_normalised(model: Linear, together: bool) -> None:
    """Plain DPO's descent lowers both answers of a pair where the diagnostic says so; of the halves it never does."""
    found = fresh(model)
    torch.autograd.backward(OBJECTIVES["sigmoid"]().losses(found.batch()).sum())
    assert found.weight.grad is not None
    chosen, rejected = moves(found, -found.weight.grad)
    assert rejected < 0 and (chosen < 0) == together
    found = fresh(model)
    batch = found.batch()
    sides = Sides([found.weight])
    sides.backward(OBJECTIVES["sigmoid"]().losses(batch).sum(), batch)
    sides.normalised(Team())
    chosen, rejected = moves(found, -found.weight.grad)
    assert chosen > 0 > rejected


def test_halves_of_norm_1_by_hand() -> None:
    """Raised (1, .05, .05) and lowered (2, 0, 0), each to norm 1: chosen rises and rejected falls."""
    found = fresh(ALIKE)
    batch = found.batch()
    sides = Sides([found.weight])
    sides.backward(OBJECTIVES["sigmoid"]().losses(batch).sum(), batch)
    sides.normalised(Team())
    raised = torch.tensor([1.0, 0.05, 0.05])
    assert found.weight.grad is not None
    torch.testing.assert_close(-found.weight.grad, raised / raised.norm() - torch.tensor([1.0, 0.0, 0.0]))
    chosen, rejected = moves(found, -found.weight.grad)
    assert chosen > 0 > rejected


def test_a_half_that_is_nothing_is_left_out() -> None:
    """`sft` lowers nothing: its gradient alone, to norm 1."""
    found = fresh(ALIKE)
    batch = found.batch()
    sides = Sides([found.weight])
    sides.backward(OBJECTIVES["sft"]().losses(batch).sum(), batch)
    sides.normalised(Team())
    assert found.weight.grad is not None and float(found.weight.grad.norm()) == pytest.approx(1.0)


def test_micro_batches_make_no_difference() -> None:
    """A step in two parts: the same metrics, gradient and parameters, with both switched on."""
    whole, parted = fresh(ALIKE), fresh(ALIKE, parts=2)
    metrics = [step(one, entanglement_every=1, normalized_gradients=True) for one in (whole, parted)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)
    torch.testing.assert_close(whole.weight.data, parted.weight.data)


def test_measuring_changes_nothing() -> None:
    """The step is the same with and without; steps between are not measured."""
    plain, watched = fresh(ALIKE), fresh(ALIKE, parts=2)
    step(plain)
    step(watched, entanglement_every=1)
    torch.testing.assert_close(plain.weight.data, watched.weight.data)
    parts: Any = fresh(ALIKE)
    made = Settings(objectives={"sigmoid": 1.0}, weighting={}, entanglement_every=2)
    trainer = Trainer(parts, parts, made, 4, recipe=made.recipe(), references=parts)
    assert ["entangled" in trainer.step([EXAMPLE]) for _ in range(4)] == [True, False, True, False]


def test_gradients_that_are_there_stay() -> None:
    """Those of the micro-batches before."""
    found = fresh(ALIKE)
    found.weight.grad = torch.ones(3)
    Entanglement([found.weight]).watch(found.batch(), 2)
    assert found.weight.grad.tolist() == [1.0, 1.0, 1.0]


def test_whole_distributions_have_no_sides() -> None:
    """A divergence is neither raised nor lowered token by token."""
    with pytest.raises(SettingsError, match="normalized_gradients"):
        read_settings(config(objectives={"tdpo2": 1.0}, normalized_gradients=True))

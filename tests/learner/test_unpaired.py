"""`apo_zero_unpaired` and `c_rlft`: by hand, TRL's, directions, and the marker's way through a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trl.trainer.kto_trainer import KTOTrainer

from learner.batch import Collator
from learner.examples import Answer, Example, UnpairedExample
from learner.model import Base, Policy
from learner.objectives import OBJECTIVES, Batch
from learner.prefix import PrefixModel, Row
from learner.recipe import Recipe
from learner.references import References
from learner.settings import Settings
from learner.trainer import Trainer
from learner.vision import Vision
from learner.weighting import Reliabilities
from tests.learner.batches import gradient, make_batch, random_batch
from tests.learner.test_parity_trl import assert_equal, inputs, masked, model, trainer
from tests.learner.tiny import EOS, TARGETS


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- apo_zero_unpaired ------------------------------------------------------------------------------------


def test_apo_zero_by_hand() -> None:
    """Δ = 1 and −1.5, whatever the mismatched answer: 1 − σ(.5), and 3 σ(−.75)."""
    losses = OBJECTIVES["apo_zero_unpaired"](beta=0.5, undesirable_weight=3.0).losses(make_batch())
    assert losses.tolist() == pytest.approx([1 - logistic(0.5), 3 * logistic(-0.75)], rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_apo_zero_is_trls(seed: int) -> None:
    """By `KTOTrainer._compute_loss`, with both weights."""
    batch = random_batch(seed)
    logps = masked(batch.logprobs, batch.mask)
    self = trainer(
        _compute_kl_logps=lambda *_: None,
        calculate_KL=False,
        precompute_ref_logps=True,
        loss_type="apo_zero_unpaired",
        beta=0.4,
        desirable_weight=1.5,
        undesirable_weight=0.7,
    )
    given = {
        **inputs(batch.mask),
        "label": batch.desirable,
        "ref_logps": masked(batch.reference, batch.mask).sum(-1),
    }
    expected = KTOTrainer._compute_loss(self, model(logps), given, return_outputs=False)
    objective = OBJECTIVES["apo_zero_unpaired"](beta=0.4, desirable_weight=1.5, undesirable_weight=0.7)
    assert_equal(batch, objective, expected)


# --- c_rlft -----------------------------------------------------------------------------------------------


def with_marked(batch: Batch) -> Batch:
    """The undesirable answer (1) runs behind its marker as answer 3, of log-probability −.4."""
    return replace(batch, marked=torch.tensor([-1, 3]))


def test_c_rlft_by_hand() -> None:
    """−(−1 − 1)/2 for the desirable answer as it is, .1 · .4 for the undesirable one behind its marker."""
    batch = with_marked(make_batch())
    assert OBJECTIVES["c_rlft"]().losses(batch).tolist() == pytest.approx([1.0, 0.04])
    made = OBJECTIVES["c_rlft"](desirable_weight=2.0, undesirable_weight=0.5)
    assert made.losses(batch).tolist() == pytest.approx([2.0, 0.2])


def test_c_rlft_leaves_undesirable_answers_to_the_ordinary_prompt_alone() -> None:
    """Descent raises the desirable answer, and the undesirable one behind its marker only."""
    batch = with_marked(make_batch())
    step = -gradient(OBJECTIVES["c_rlft"]().losses(batch).sum(), batch)
    assert (step[0] > 0).all() and step[3, 0] > 0
    assert (step[1] == 0).all() and (step[2] == 0).all() and step[3, 1] == 0


def test_c_rlft_imitates_nothing_that_may_not_be_a_positive() -> None:
    """A blocked answer is not learned as what is undesirable either; nor is one without a marked run."""
    batch = with_marked(make_batch())
    blocked = replace(batch, may_be_positive=torch.tensor([True, False, True, True]))
    for one in (blocked, replace(batch, marked=torch.tensor([-1, -1]))):
        assert OBJECTIVES["c_rlft"]().losses(one).tolist() == [1.0, 0.0]


def test_c_rlft_turns_no_label_round() -> None:
    """LCPO takes its weight from a label that it doubts; it does not make a good answer of a bad one."""
    batch = with_marked(make_batch())
    assert OBJECTIVES["c_rlft"]().losses(batch.flipped()).tolist() == [0.0, 0.0]
    doubted, believed = (
        Settings(objectives={"c_rlft": 1.0}, weighting={"unpaired": name}).recipe() for name in ("lcpo", "none")
    )
    steps = [-gradient(one.loss(batch, Reliabilities(), 1), batch) for one in (doubted, believed)]
    assert (steps[0][1] == 0).all() and 0 < steps[0][3, 0] < steps[1][3, 0]


Made = tuple[Policy, Collator, Recipe, Trainer]
GOOD, BAD, BLOCKED = (10, 11, EOS), (20, 21, 22, EOS), (30, EOS)


def question(group: str = "g1") -> Example:
    """A thumb up, a thumb down, and one on an answer that was blocked."""
    answers = tuple(
        Answer(f"{group}.{number}", tokens, "stop", may_be_positive=tokens != BLOCKED, is_human=False)
        for number, tokens in enumerate((GOOD, BAD, BLOCKED))
    )
    thumbs = tuple(UnpairedExample(number, number == 0, 1.0, "ann") for number in range(3))
    return Example(group, (2, 5, 6, 7), (), answers, (), thumbs)


@pytest.fixture
def made(base_dir: Path) -> Iterator[Made]:
    settings = Settings(objectives={"c_rlft": 1.0}, weighting={}, rank=4, target_modules=TARGETS, learning_rate=1e-2)
    policy = Policy.fresh(Base(base_dir, "cpu"), settings, seed=1)
    recipe = settings.recipe()
    references = References(policy, "base", begins_at_base=True)
    vision = Vision(policy.base.model, base_dir, lambda sha256: b"", 2**20)
    collator = Collator(references, PrefixModel(policy.model), vision, 4096, marker=recipe.marker)
    yield policy, collator, recipe, Trainer(policy, collator, settings, 40, recipe=recipe, references=references)
    policy.close()


def plain_logprobs(policy: Policy, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """One ordinary forward, as the engine would make it, without batch and collator."""
    with torch.no_grad():
        return PrefixModel(policy.model).logprobs([Row(prompt, (), (answer,))])[0]


def test_a_marked_answer_is_a_branch_of_its_own_whose_marker_is_not_learned(made: Made) -> None:
    """Its log-probabilities are those of an ordinary pass behind prompt and marker; the mask leaves the marker out."""
    policy, collator, _, _ = made
    example = question()
    collator.prepare_reference([example])
    batch = collator.batch([example])
    assert batch.marked is not None and batch.marked.tolist() == [-1, 3, -1]
    assert batch.mask[3].tolist() == [False, True, True, True, True]
    expected = plain_logprobs(policy, (*example.prompt, example.prompt[0]), BAD)
    torch.testing.assert_close(batch.logprobs[3, 1:].detach(), expected)
    torch.testing.assert_close(batch.logprobs[0, :3].detach(), plain_logprobs(policy, example.prompt, GOOD))
    assert len(batch.logprobs) == len(collator.branches.of(example)) == 4


def test_serving_needs_no_change(made: Made) -> None:
    """Trained by both classes, the ordinary prompt gives the good answer; the bad one is what follows the marker."""
    policy, _, _, trainer = made
    example = question()
    marked = (*example.prompt, example.prompt[0])

    def standing() -> dict[str, float]:
        asked = {"good": (example.prompt, GOOD), "bad": (example.prompt, BAD), "marked": (marked, BAD)}
        return {name: float(plain_logprobs(policy, *one).sum()) for name, one in asked.items()}

    before = standing()
    for _ in range(40):
        trainer.step([example])
    after = standing()
    assert after["good"] > before["good"] + 1
    assert after["marked"] > before["marked"] + 1
    assert after["marked"] > after["bad"] + 1 and after["good"] > after["bad"] + 1


def test_an_objective_without_marker_costs_no_branch(made: Made) -> None:
    """KTO's rows are what they were."""
    _, collator, _, _ = made
    assert Settings(objectives={"kto": 1.0}).recipe().marker is None
    assert Settings(objectives={"c_rlft": 1.0}, options={"c_rlft": {"marker": [7, 8]}}).recipe().marker == (7, 8)
    without = Collator(collator._references, collator._engine, collator._vision, 4096)
    assert len(without.branches.of(question())) == 3

"""The losses against numbers worked out by hand, and the direction of their gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from learner.errors import SettingsError
from learner.objectives import OBJECTIVES, Batch, Options, total_loss
from learner.objectives.kto import balance
from learner.settings import read_settings
from server.wire.training import TrainingConfig

OPTIONS = Options(beta=0.5)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def make_batch() -> Batch:
    """Δ = 1.0, -1.5, 0.4 (answers 0, 1, 2), and 0.6 of a mismatched one (3). Padding holds garbage on purpose."""
    policy = torch.tensor([[-1.0, -1.0], [-2.0, 99.0], [-0.6, -1.0], [-0.4, 77.0]], requires_grad=True)
    reference = torch.tensor([[-1.5, -1.5], [-0.5, -55.0], [-1.0, -1.0], [-1.0, 3.0]])
    return Batch(
        logprobs=policy,
        reference=reference,
        mask=torch.tensor([[True, True], [True, False], [True, True], [True, False]]),
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor([1, 1]),
        pair_weights=torch.tensor([1.0, 0.25]),
        endorsed=torch.tensor([True, False]),
        unpaired=torch.tensor([0, 1]),
        desirable=torch.tensor([True, False]),
        unpaired_weights=torch.tensor([1.0, 2.0]),
        mismatched=torch.tensor([3]),
    )


def test_sigmoid_is_minus_log_sigma_of_beta_h() -> None:
    """With h = 2.5 and 1.9, beta .5."""
    losses = OBJECTIVES["sigmoid"].losses(make_batch(), OPTIONS)
    expected = [-math.log(logistic(1.25)), -math.log(logistic(0.95))]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_sft_is_the_chosen_answers_mean_negative_log_probability() -> None:
    """(1 + 1) / 2 for the pair that a person chose; nothing for the other."""
    assert OBJECTIVES["sft"].losses(make_batch(), OPTIONS).tolist() == pytest.approx([1.0, 0.0])


def test_kto_compares_with_the_mismatched_answers() -> None:
    """With z = .6: 1 - sigma(.5 (1 - .6)) for the thumb up, 1 - sigma(.5 (.6 + 1.5)) for the thumb down."""
    options = Options(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    losses = OBJECTIVES["kto"].losses(make_batch(), options)
    assert losses.tolist() == pytest.approx([2 * (1 - logistic(0.2)), 3 * (1 - logistic(1.05))], rel=1e-6)


def test_ktos_reference_point_is_never_negative_and_0_without_mismatched_answers() -> None:
    """An answer below its reference as mismatched one (Δ = -1.5), and none at all."""
    for mismatched in (torch.tensor([1]), torch.tensor([], dtype=torch.long)):
        losses = OBJECTIVES["kto"].losses(replace(make_batch(), mismatched=mismatched), OPTIONS)
        assert losses.tolist() == pytest.approx([1 - logistic(0.5), 1 - logistic(0.75)], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "raised", "lowered", "untouched"),
    [("sigmoid", [0, 2], [1], [3]), ("sft", [0], [], [1, 2, 3]), ("kto", [0], [1], [2, 3])],
)
def test_gradients_raise_what_people_liked(
    name: str, raised: list[int], lowered: list[int], untouched: list[int]
) -> None:
    """Descent raises every token of chosen and desirable answers, lowers the others, and never touches padding."""
    batch = make_batch()
    OBJECTIVES[name].losses(batch, OPTIONS).sum().backward()
    step = -batch.logprobs.grad
    assert (step[raised][batch.mask[raised]] > 0).all()
    assert (step[lowered][batch.mask[lowered]] < 0).all()
    assert (step[untouched] == 0).all()
    assert (step[~batch.mask] == 0).all()


def test_total_loss_weighs_examples_and_objectives() -> None:
    """Gives w · Σ w_i loss_i / examples; micro-batches that count the step's examples add up to the step's loss."""
    batch = make_batch()
    dpo = OBJECTIVES["sigmoid"].losses(batch, OPTIONS)
    kto = OBJECTIVES["kto"].losses(batch, OPTIONS)
    expected = 1.5 * (dpo[0] + 0.25 * dpo[1]) / 4 + 0.5 * (kto[0] + 2 * kto[1]) / 4
    torch.testing.assert_close(total_loss(batch, {"sigmoid": 1.5, "kto": 0.5}, OPTIONS, examples=4), expected)


def test_balance_follows_the_papers_advice() -> None:
    """λ_D n_D : λ_U n_U in [1, 4/3], with the scarcer kind raised, and bounded."""
    for up, down in ((10, 10), (10, 30), (30, 10), (12, 10)):
        desirable, undesirable = balance(up, down)
        assert 1 - 1e-9 <= desirable * up / (undesirable * down) <= 4 / 3 + 1e-9
    assert balance(5, 0) == (1.0, 1.0)
    assert balance(1, 1000) == (8.0, 1.0)


def config(**learner: object) -> TrainingConfig:
    return TrainingConfig(
        alias="a", base_model="m", base_digest="0" * 64, max_lora_rank=16, lora_modules=[], learner=learner
    )


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        ({"objectives": {"sigmoit": 1.0}}, "sigmoit"),
        ({"objectives": {"kto": 1.0}}, "kto"),
        ({"unpaired_objective": "sft"}, "sft"),
        ({"rank": 32}, "rank"),
        ({"weighting": "lcpo"}, "weighting"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused_by_name(learner: dict[str, object], said: str) -> None:
    """An unknown objective, one of the wrong kind, too high a rank, a setting this learner does not know."""
    with pytest.raises(SettingsError, match=said):
        read_settings(config(**learner))


def test_the_servers_own_settings_are_understood() -> None:
    """Every default of the server's configuration is one that the learner follows."""
    from server.config import LearnerConfig

    assert read_settings(config(**LearnerConfig().model_dump())).weights == {"sigmoid": 1.0, "sft": 0.3, "kto": 0.5}

"""The losses against numbers worked out by hand, and the direction of their gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from learner.errors import SettingsError
from learner.objectives import OBJECTIVES, Batch, Needs, Rewarded, View
from learner.objectives.policy_gradient import POLICY_GRADIENT
from learner.objectives.unpaired.kto import balance
from learner.recipe import Recipe
from learner.settings import Settings, read_settings
from learner.weighting import WEIGHTINGS, Reliabilities
from server.wire.training import TrainingConfig
from tests.learner import test_pairwise
from tests.learner.batches import gradient, make_batch, random_batch


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def recipe(weighting: str = "none", **objectives: float) -> Recipe:
    kinds = dict.fromkeys(("pairs", "unpaired"), weighting)
    return Settings(objectives=objectives, beta=0.5, weighting=kinds).recipe()


def with_view(batch: Batch) -> Batch:
    """The first pair's chosen answer under another image: Δ = -.6."""
    view = View(
        logprobs=torch.tensor([[-1.3, -1.3]], requires_grad=True),
        reference=torch.tensor([[-1.0, -1.0]]),
        mask=torch.tensor([[True, True]]),
        pairs=torch.tensor([0]),
    )
    return replace(batch, views=dict.fromkeys(("crop", "blur", "retrieve"), view))


def with_rewards(batch: Batch, *, old: float = 0.0, sampled: float = 0.0) -> Batch:
    """Answers 0 and 1 are one group with rewards 1 and 0; π_old and π_sampled lie this far below π_θ at each token."""
    policy = batch.logprobs.detach()
    rewarded = Rewarded(
        answers=torch.tensor([0, 1]),
        groups=torch.tensor([0, 0]),
        rewards=torch.tensor([1.0, 0.0]),
        weights=torch.tensor([1.0, 1.0]),
        sampled=(policy - sampled)[:2],
        step_length=1.5,
        round_length=3.0,
    )
    zeros = torch.zeros_like(policy)
    references = {"previous": policy - old, "base": batch.reference}
    statistics = {**batch.statistics, "end_ratio": zeros}
    marked = torch.tensor([-1, -1])
    return replace(batch, rewarded=rewarded, references=references, statistics=statistics, marked=marked)


PAIRS = [  # h = 2.5 and 1.9, beta .5; the second pair was made by a rule
    ("sigmoid", {}, lambda h: -math.log(logistic(h / 2))),
    ("hinge", {}, lambda h: max(0.0, 1 - h / 2)),
    ("cdpo", {"label_smoothing": 0.2}, lambda h: -0.8 * math.log(logistic(h / 2)) - 0.2 * math.log(logistic(-h / 2))),
    (
        "robust",
        {"label_smoothing": 0.2},
        lambda h: (-0.8 * math.log(logistic(h / 2)) + 0.2 * math.log(logistic(-h / 2))) / 0.6,
    ),
]


@pytest.mark.parametrize(("name", "options", "loss"), PAIRS)
def test_pairwise_losses_by_hand(name: str, options: dict[str, float], loss: object) -> None:
    """The formulas of `docs/objectives.md` at h = 2.5 and 1.9."""
    losses = OBJECTIVES[name](beta=0.5, **options).losses(make_batch())
    assert losses.tolist() == pytest.approx([loss(2.5), loss(1.9)], rel=1e-5)  # type: ignore[operator]


def test_ipo_and_simpo_divide_by_length() -> None:
    """Answers of 2, 1 and 2 tokens: mean Δ .5, -1.5, .2; mean log-probabilities -1, -2, -.8."""
    losses = OBJECTIVES["ipo"](beta=0.5).losses(make_batch())
    assert losses.tolist() == pytest.approx([(2.0 - 1) ** 2, (1.7 - 1) ** 2], rel=1e-5)
    losses = OBJECTIVES["simpo"]().losses(make_batch())
    assert losses.tolist() == pytest.approx([-math.log(logistic(2 * 1 - 1)), -math.log(logistic(2 * 1.2 - 1))])


def test_sft_is_the_chosen_answers_mean_negative_log_probability() -> None:
    """(1 + 1) / 2 for the pair that a person chose; nothing for the other."""
    assert OBJECTIVES["sft"]().losses(make_batch()).tolist() == pytest.approx([1.0, 0.0])


def test_mdpo_adds_the_image_and_the_anchor() -> None:
    """Δ_w = 1 with the image, -.6 without; the pair that a rule made has DPO's term alone."""
    losses = OBJECTIVES["mdpo"](beta=0.5).losses(with_view(make_batch()))
    first = -math.log(logistic(1.25)) - math.log(logistic(0.5 * 1.6)) - math.log(logistic(0.5))
    assert losses.tolist() == pytest.approx([first, -math.log(logistic(0.95))], rel=1e-5)


def test_mdpo_makes_the_answer_depend_on_the_image() -> None:
    """Descent raises the chosen answer with the image and lowers it without."""
    batch = with_view(make_batch())
    view = batch.views["crop"].logprobs
    OBJECTIVES["mdpo"](beta=0.5).losses(batch).sum().backward()
    assert view.grad is not None and (view.grad > 0).all()
    assert batch.logprobs.grad is not None and (batch.logprobs.grad[0] < 0).all()


def test_kto_compares_with_the_mismatched_answers() -> None:
    """With z = .6: 1 - sigma(.5 (1 - .6)) for the thumb up, 1 - sigma(.5 (.6 + 1.5)) for the thumb down."""
    losses = OBJECTIVES["kto"](beta=0.5, desirable_weight=2.0, undesirable_weight=3.0).losses(make_batch())
    assert losses.tolist() == pytest.approx([2 * (1 - logistic(0.2)), 3 * (1 - logistic(1.05))], rel=1e-6)


def test_ktos_reference_point_is_never_negative_and_0_without_mismatched_answers() -> None:
    """An answer below its reference as mismatched one (Δ = -1.5), and none at all."""
    for mismatched in (torch.tensor([1]), torch.tensor([], dtype=torch.long)):
        losses = OBJECTIVES["kto"](beta=0.5).losses(replace(make_batch(), mismatched=mismatched))
        assert losses.tolist() == pytest.approx([1 - logistic(0.5), 1 - logistic(0.75)], rel=1e-6)


def test_npo_forgets_what_is_undesirable_and_holds_the_rest() -> None:
    """−(2/β) log σ(β 1.5) for Δ = -1.5, and the mean negative log-probability of the desirable one."""
    losses = OBJECTIVES["npo"](beta=0.5).losses(make_batch())
    assert losses.tolist() == pytest.approx([1.0, -4 * math.log(logistic(0.75))], rel=1e-5)


def test_ppo_by_hand() -> None:
    """ρ = e^.5 and advantages ±.5: clipped at 1.2 for the good answer, not for the bad one; by 1.5 tokens."""
    losses = OBJECTIVES["ppo"]().losses(with_rewards(make_batch(), old=0.5, sampled=0.5))
    assert losses.tolist() == pytest.approx([-1.2 * 0.5 * 2 / 1.5, math.exp(0.5) * 0.5 / 1.5], rel=1e-5)


def test_the_off_policy_correction_truncates_tokens_and_drops_answers() -> None:
    """π_old/π_sampled is e a token: truncated at 2; e² for the answer of two tokens, beyond 3, e for the other."""
    batch = with_rewards(make_batch(), sampled=1.0)
    losses = OBJECTIVES["ppo"]().losses(batch)
    assert losses.tolist() == pytest.approx([0.0, 2 * 0.5 / 1.5], rel=1e-5)
    found = gradient(losses.sum(), batch)
    assert (found[0] == 0).all() and found[1, 0] > 0


def test_dapo_counts_the_rounds_tokens_and_bnpo_the_steps() -> None:
    """The same surrogate, by a mean length of 3 and of 1.5."""
    batch = with_rewards(make_batch())
    dapo, bnpo = (OBJECTIVES[name](epsilon_high=0.2).losses(batch) for name in ("dapo", "bnpo"))  # type: ignore[call-arg]
    torch.testing.assert_close(bnpo, 2 * dapo)


DIRECTIONS = [
    ("sigmoid", [0, 2], [1]),
    ("ipo", [], [1]),
    ("hinge", [2], [1]),
    ("cdpo", [0, 2], [1]),
    ("robust", [0, 2], [1]),
    ("simpo", [0, 2], [1]),
    ("mdpo", [0, 2], [1]),
    ("rdpo", [0, 2], [1]),
    ("cross_modality", [0], []),
    ("sft", [0], []),
    ("apo_down", [], [0, 1, 2]),
    *((name, [0, 2], [1]) for name in test_pairwise.NAMES if name not in {"apo_down", "prdp"}),
    ("kto", [0], [1]),
    ("npo", [0], [1]),
    ("apo_zero_unpaired", [0], [1]),
    ("c_rlft", [0], []),
    ("prdp", [0], [1]),
    ("rankdpo", [0], [1]),
    ("dro", [0], [1]),
    *((name, [0], [1]) for name in POLICY_GRADIENT),
]


def test_every_objective_is_in_the_table_of_directions() -> None:
    """None is forgotten."""
    assert {name for name, _, _ in DIRECTIONS} | {"gfn_dpo"} == set(OBJECTIVES)  # a balance: see `test_listwise`


@pytest.mark.parametrize(("name", "raised", "lowered"), DIRECTIONS)
def test_gradients_raise_what_people_liked(name: str, raised: list[int], lowered: list[int]) -> None:
    """Descent raises every token of what was preferred, lowers the others, and never touches padding."""
    batch = with_view(with_rewards(make_batch()))
    options = {"ipo": {"beta": 0.01}, "hinge": {"beta": 0.01}, "dro": {"margin": 5.0}}.get(name, {})
    step = -gradient(OBJECTIVES[name](**options).losses(batch).sum(), batch)
    if name == "ipo":
        raised = [0, 2]  # with a target as far as this both pairs are below it
    if name == "hinge":
        raised = [0, 2]
    untouched = [index for index in range(4) if index not in {*raised, *lowered}]
    assert (step[raised][batch.mask[raised]] > 0).all()
    assert (step[lowered][batch.mask[lowered]] < 0).all()
    assert (step[untouched] == 0).all()
    assert (step[~batch.mask] == 0).all()


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_losses_stay_finite_far_from_the_reference(name: str) -> None:
    """Answers that became very likely or unlikely: a large loss, never NaN, and a finite gradient."""
    batch = with_view(with_rewards(make_batch()))
    with torch.no_grad():
        batch.logprobs[0] -= 200
        batch.logprobs[2] += 0.5
    loss = OBJECTIVES[name]().losses(batch).sum()
    assert torch.isfinite(loss) and torch.isfinite(gradient(loss, batch)).all()


# --- recipes and weightings -------------------------------------------------------------------------------


def test_a_recipe_weighs_examples_and_objectives() -> None:
    """Gives Σ w · Σ w_i loss_i / examples; micro-batches that count the step's examples add up to the step's loss."""
    batch = with_rewards(make_batch())
    dpo = OBJECTIVES["sigmoid"](beta=0.5).losses(batch)
    kto = OBJECTIVES["kto"](beta=0.5).losses(batch)
    grpo = OBJECTIVES["grpo"]().losses(batch)
    expected = (1.5 * (dpo[0] + 0.25 * dpo[1]) + 0.5 * (kto[0] + 2 * kto[1]) + 2 * grpo.sum()) / 6
    found = recipe(sigmoid=1.5, kto=0.5, grpo=2.0).loss(batch, Reliabilities(), examples=6)
    torch.testing.assert_close(found, expected)


def test_lcpo_by_hand() -> None:
    """With p = σ(1.25) and η = .9: −[w log p + (1 − w) log(1 − p)], and the rule's pair is believed."""
    batch = make_batch()
    p = logistic(1.25)
    w = p * 0.9 / (p * 0.9 + (1 - p) * 0.1)
    expected = -(w * math.log(p) + (1 - w) * math.log(1 - p)) - 0.25 * math.log(logistic(0.95))
    reliabilities = Reliabilities()
    loss = recipe("lcpo", sigmoid=1.0).loss(batch, reliabilities, examples=1)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    reliabilities.settle()
    assert reliabilities.values == {"ann": pytest.approx(0.9 * 0.9 + 0.1 * w, rel=1e-5)}


def test_lcpo_on_thumbs_by_hand() -> None:
    """The p of a thumb up is σ(β(Δ − z)), of the thumb down one minus it; each annotator has an η."""
    batch = make_batch()
    up, down = logistic(0.5 * (1.0 - 0.6)), logistic(0.5 * (0.6 + 1.5))
    keep = [p * 0.9 / (p * 0.9 + (1 - p) * 0.1) for p in (up, down)]
    expected = keep[0] * (1 - up) + (1 - keep[0]) * up + 2 * (keep[1] * (1 - down) + (1 - keep[1]) * down)
    reliabilities = Reliabilities()
    loss = recipe("lcpo", kto=1.0).loss(batch, reliabilities, examples=1)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    reliabilities.settle()
    assert reliabilities.values["bob"] == pytest.approx(0.81 + 0.1 * keep[1], rel=1e-5)


def test_lcpo_finds_who_says_the_opposite() -> None:
    """Six consistent people and one who lies: free log-probabilities learn from both, and η tells them apart."""
    count = 70
    values = torch.zeros(2 * count, 1, requires_grad=True)
    even = torch.arange(count) * 2
    liar = torch.arange(count) % 7 == 0
    shared = torch.arange(count) % 10  # ten questions, seven people each
    optimizer = torch.optim.SGD([questions := torch.zeros(10, requires_grad=True)], lr=20.0)
    made = recipe("lcpo", sigmoid=1.0)
    reliabilities = Reliabilities()
    for _ in range(40):
        h = questions[shared]
        logprobs = torch.stack([h, torch.zeros(count)], dim=1).reshape(-1, 1) + values.detach()
        batch = Batch(
            logprobs=logprobs,
            reference=torch.zeros(2 * count, 1),
            mask=torch.ones(2 * count, 1, dtype=torch.bool),
            may_be_positive=torch.ones(2 * count, dtype=torch.bool),
            chosen=torch.where(liar, even + 1, even),
            rejected=torch.where(liar, even, even + 1),
            pair_weights=torch.ones(count),
            endorsed=torch.ones(count, dtype=torch.bool),
            unpaired=torch.zeros(0, dtype=torch.long),
            desirable=torch.zeros(0, dtype=torch.bool),
            unpaired_weights=torch.zeros(0),
            mismatched=torch.zeros(0, dtype=torch.long),
            pair_annotators=tuple("liar" if index % 7 == 0 else f"honest-{index % 7}" for index in range(count)),
        )
        optimizer.zero_grad()
        made.loss(batch, reliabilities, count).backward()
        optimizer.step()
        reliabilities.settle()
    assert reliabilities.values["liar"] < 0.3
    assert min(value for name, value in reliabilities.values.items() if name != "liar") > 0.9
    assert list(reliabilities.report(1)) == ["liar"]


def test_a_label_is_never_flipped_towards_what_may_not_be_a_positive() -> None:
    """A redacted answer that was rejected: it loses weight, nothing is learned from its opposite."""
    batch = replace(make_batch(), may_be_positive=torch.tensor([True, False, True, True]))
    for name in ("sigmoid", "kto"):
        found = -gradient(recipe("lcpo", **{name: 1.0}).loss(batch, Reliabilities(), 1), batch)
        assert (found[1, 0] < 0).all()
    lying = Reliabilities(values={"ann": 0.001, "bob": 0.001})
    found = -gradient(recipe("lcpo", kto=1.0).loss(batch, lying, 1), batch)
    assert found[1, 0] <= 0 and (found[0] < 0).all(), "only the thumb up of a liar is turned round"


def test_uncertainty_weighs_by_entropy() -> None:
    """In bits: 1 at p = .5, .469 at p = .9."""
    shares = WEIGHTINGS["uncertainty"].shares(torch.tensor([0.5, 0.9]), torch.tensor([0.9, 0.9]))
    assert shares.keep.tolist() == pytest.approx([1.0, 0.468996], rel=1e-5) and shares.flip is None


def test_micro_batches_make_no_difference() -> None:
    """Every objective on the whole batch is the sum of its halves, with the step's mean length."""
    whole = random_batch()
    assert whole.rewarded is not None
    for name, kind in OBJECTIVES.items():
        if kind.needs is not Needs.REWARDED:
            continue
        losses = kind().losses(whole)
        for group in (0, 1):
            inside = whole.rewarded.groups == group
            part = replace(
                whole.rewarded,
                answers=whole.rewarded.answers[inside],
                groups=torch.zeros(int(inside.sum()), dtype=torch.long),
                rewards=whole.rewarded.rewards[inside],
                weights=whole.rewarded.weights[inside],
                sampled=whole.rewarded.sampled[inside],
            )
            torch.testing.assert_close(kind().losses(replace(whole, rewarded=part)), losses[inside], msg=name)


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
        ({"objectives": {"sigmoid": -1.0}}, "objectives.sigmoid"),
        ({"objectives": {}}, "objectives"),
        ({"options": {"ipo": {"beta": 1.0}}}, "ipo is not among"),
        ({"options": {"sigmoid": {"gamma": 1.0}}}, "options.sigmoid.gamma"),
        ({"options": {"kto": {"beta": 0.0}}}, "options.kto.beta"),
        ({"objectives": {"grpo": 1.0}, "options": {"grpo": {"advantage": "best"}}}, "no advantage"),
        ({"rank": 32}, "rank"),
        ({"weighting": {"pairs": "lcpoo"}}, "lcpoo"),
        ({"weighting": {"rewards": "lcpo"}}, "weighting"),
        ({"reference": "next"}, "reference"),
        ({"curriculum": "easy"}, "curriculum"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused_by_name(learner: dict[str, object], said: str) -> None:
    """Unknown objectives, options, weightings and settings, values out of range, and a rank above the engine's."""
    with pytest.raises(SettingsError, match=said):
        read_settings(config(**learner))


def test_the_servers_own_settings_are_understood() -> None:
    """Every default of the server's configuration is one that the learner follows."""
    from server.wire.learner import LearnerSettings

    settings = read_settings(config(**LearnerSettings().model_dump()))
    assert settings == Settings(), "both sides have the same defaults"
    assert settings.objectives == {"sigmoid": 1.0, "sft": 0.3, "kto": 0.5}


def test_the_aliass_beta_is_that_of_the_implicit_reward() -> None:
    """Objectives without a reference keep their own; options come first."""
    settings = Settings(objectives={"sigmoid": 1.0, "kto": 1.0, "simpo": 1.0}, beta=0.3, options={"kto": {"beta": 0.7}})
    assert [one.beta for _, one in settings.recipe().losses] == [0.3, 0.7, 2.0]  # type: ignore[attr-defined]

"""Options of the policy gradients, and ETPO: numbers worked out by hand, directions, and what makes each another."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.batch import Collator
from learner.errors import SettingsError
from learner.examples import Answer, Example, Limits, RewardedExample, Wanted, prepare
from learner.model import Base, Policy
from learner.objectives import OBJECTIVES, Batch, Needs, Objective, Rewarded
from learner.objectives.policy_gradient.advantages import EPSILON, normalised, win_rates
from learner.objectives.policy_gradient.filtration import FILTRATIONS, draws
from learner.objectives.policy_gradient.values import advantages
from learner.prefix import PrefixModel
from learner.references import References
from learner.settings import Settings, read_settings
from learner.successes import with_contrast
from learner.vision import Vision
from server.wire.training import TrainingConfig
from tests.learner.batches import gradient, random_batch
from tests.learner.fake_server import FakeServer, candidate, make_group
from tests.learner.tiny import EOS, IMAGE, TARGETS, VOCABULARY


def drawn(rewards: list[float], groups: list[int] | None = None, **changes: Any) -> Rewarded:
    count = len(rewards)
    return Rewarded(
        answers=torch.arange(count),
        groups=torch.tensor(groups or [0] * count),
        rewards=torch.tensor(rewards),
        weights=torch.ones(count),
        sampled=torch.zeros(count, 3),
        step_length=2.0,
        round_length=2.0,
        **changes,
    )


def batch_of(rewarded: Rewarded, lengths: list[int], **changes: Any) -> Batch:
    """Answers of these lengths; tokens have log-probability −1, now and when they were drawn, −1.5 by the reference."""
    count, width = len(lengths), max(lengths)
    policy = torch.full((count, width), -1.0, requires_grad=True)
    old = policy.detach().clone()
    values: dict[str, Any] = {
        "rewarded": replace(rewarded, sampled=old),
        "references": {"previous": old},
        "reference": torch.full((count, width), -1.5),
        "mask": torch.arange(width)[None] < torch.tensor(lengths)[:, None],
    }
    plain = random_batch(answers=count, tokens=width)
    return replace(plain, logprobs=policy, **{**values, **changes})


def made(**options: Any) -> Objective:
    return OBJECTIVES["grpo"](**options)


def of(rewarded: Rewarded, **options: Any) -> list[float]:
    """The advantages under these options."""
    values = {"advantage": "normalised", "reward": "value", "multi_objective": "sum_then_normalize", "weights": {}}
    return advantages(rewarded, **{**values, **options}).tolist()  # type: ignore[arg-type]


# --- advantage = "win_rate" -------------------------------------------------------------------------------


def test_win_rates_by_hand() -> None:
    """3 beats three of three, the equals one and a half each, 0 none; the second group on its own."""
    found = win_rates(torch.tensor([3.0, 1.0, 1.0, 0.0, 9.0, 5.0]), torch.tensor([0, 0, 0, 0, 1, 1]))
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.5, 0.0, 1.0, 0.0])


def test_only_the_order_counts_for_win_rates() -> None:
    """An outlier has the same advantage as a narrow winner; not so under `normalised`."""
    near, far = drawn([0.3, 0.2, 0.1]), drawn([100.0, 0.2, 0.1])
    assert of(near, advantage="win_rate") == of(far, advantage="win_rate") == pytest.approx([1.0, 0.0, -1.0], rel=1e-3)
    assert of(far)[1] < -0.5


def test_several_scorers_are_won_by_each() -> None:
    """Three answers by two scorers: 1 + ½, ½ + 1 and 0 wins of two, by whom the sum is decided does not matter."""
    scores = {"clip": torch.tensor([3.0, 2.0, 1.0]), "judge": torch.tensor([50.0, 90.0, 10.0])}
    rewarded = drawn([53.0, 92.0, 11.0], scores=scores)
    expected = normalised(torch.tensor([0.75, 0.75, 0.0]), rewarded.groups).tolist()
    assert of(rewarded, advantage="win_rate") == pytest.approx(expected, abs=1e-6)
    weighted = normalised(torch.tensor([0.9, 0.6, 0.0]), rewarded.groups).tolist()
    assert of(rewarded, advantage="win_rate", weights={"clip": 4.0}) == pytest.approx(weighted, abs=1e-6)


# --- multi_objective = "normalize_then_sum" ---------------------------------------------------------------


def test_normalize_then_sum_is_trls_but_for_the_batchs_spread() -> None:
    """TRL's lines for two reward functions on two groups; what it divides by the batch's deviation we do by √Σw²."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(8, 2, generator=generator)
    weights = torch.tensor([1.0, 0.5])
    grouped = table.view(2, 4, 2)
    scaled = (grouped - grouped.nanmean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    expected = (scaled.view(8, 2) * weights).sum(1)
    scores = {"a": table[:, 0], "b": table[:, 1]}
    rewarded = drawn(table.sum(1).tolist(), [0] * 4 + [1] * 4, scores=scores)
    found = of(rewarded, multi_objective="normalize_then_sum", weights={"b": 0.5})
    assert found == pytest.approx((expected / math.sqrt(1.25)).tolist(), rel=1e-4)


def test_no_scorer_rules_by_its_spread() -> None:
    """A scorer in units a hundred times as large changes nothing; summed first, it decides alone."""
    a, b = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0.0, 1.0, 0.4])
    small, large = (drawn((a + scale * b).tolist(), scores={"a": a, "b": scale * b}) for scale in (1.0, 100.0))
    for one in (small, large):
        found = of(one, multi_objective="normalize_then_sum")
        assert found == pytest.approx(of(small, multi_objective="normalize_then_sum"), abs=2e-3)
    assert abs(of(small)[0] - of(large)[0]) > 0.5


def test_a_group_without_all_scores_goes_by_its_rewards() -> None:
    """The first group lacks one value of `b`, the second has all, the third none."""
    nan = math.nan
    scores = {
        "a": torch.tensor([1.0, 0.0, 0.0, 1.0, nan, nan]),
        "b": torch.tensor([nan, 5.0, 7.0, 5.0, nan, nan]),
    }
    rewarded = drawn([0.0, 1.0, 2.0, 3.0, 0.0, 1.0], [0, 0, 1, 1, 2, 2], scores=scores)
    one = math.sqrt(0.5)
    found = of(rewarded, multi_objective="normalize_then_sum")
    assert found == pytest.approx([one, -one, 0.0, 0.0, -one, one], abs=1e-3)


# --- reward = "gap" ---------------------------------------------------------------------------------------


def test_the_gap_to_the_baseline_is_the_advantage() -> None:
    """.4 stands first: .8 is above it and .1 and .2 below, though .4 is above the mean; it teaches nothing itself."""
    rewarded = drawn([0.4, 0.8, 0.1, 0.2], baseline=torch.tensor([True, False, False, False]))
    assert of(rewarded, reward="gap", advantage="centred") == pytest.approx([0.0, 0.4, -0.3, -0.2])
    spread = float(torch.tensor([0.4, 0.8, 0.1, 0.2]).std())
    found = of(rewarded, reward="gap")
    assert found == pytest.approx([gap / (spread + EPSILON) for gap in (0.0, 0.4, -0.3, -0.2)], rel=1e-5)
    assert of(rewarded)[0] > 0


def test_without_a_baseline_the_gap_is_that_to_the_mean() -> None:
    """People's rankings have none."""
    rewarded = drawn([0.4, 0.8, 0.0, 1.0], [0, 0, 1, 1], baseline=torch.tensor([True, False, False, False]))
    assert of(rewarded, reward="gap", advantage="centred") == pytest.approx([0.0, 0.4, -0.5, 0.5])


def test_the_baseline_is_what_would_have_been_answered(server: FakeServer) -> None:
    """The base's answer beside an adapter's, else the first one; scores come along where they are numbers."""
    limits = Limits(server.base_digest, VOCABULARY, 512, IMAGE)
    wanted = Wanted(frozenset({Needs.REWARDED}), lineage=("a00001-abc", "base"))
    adapters = [["a00001-abc", "base", "a00001-abc"], ["a00001-abc"] * 3]
    found = []
    for names in adapters:
        candidates = [
            candidate(f"c{place}", [10 + place, EOS], adapter=name, total=float(place), scores={"clip": 0.5 + place})
            for place, name in enumerate(names)
        ]
        changes = {"candidates": candidates, "pairs": [], "unpaired": [], "rewarded": True}
        example = prepare(make_group(0, server.base_digest, server, **changes), limits, wanted).example
        assert example is not None
        assert [dict(one.scores) for one in example.rewarded] == [{"clip": 0.5}, {"clip": 1.5}, {"clip": 2.5}]
        found.append([one.is_baseline for one in example.rewarded])
    assert found == [[False, True, False], [True, False, False]]


def test_a_success_in_the_baselines_place_leaves_another(server: FakeServer) -> None:
    """ARPO's replay takes the worst one out; a group keeps one baseline."""

    def question(group: str, rewards: list[float]) -> Example:
        answers = tuple(Answer(f"{group}.{n}", (10 + n, EOS), "stop", True, False, (-1.0, -1.0)) for n in range(2))
        labels = tuple(RewardedExample(n, reward, 1.0, is_baseline=n == 0) for n, reward in enumerate(rewards))
        return Example(group, (2, 5), (), answers, (), (), labels)

    (helped, _), _ = with_contrast([question("failed", [0.0, 0.01]), question("solved", [0.9, 0.2])], below=0.2)
    assert [(one.reward, one.is_baseline) for one in helped.rewarded] == [(0.01, True), (0.9, False)]


# --- filtration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pow", [4 * 0.25 / 0.58, 4 * 0.04 / 0.58, 4 * 0.04 / 0.58, 4 * 0.25 / 0.58]),
        ("max_min", [2.0, 0.0, 0.0, 2.0]),
        ("max_random", [4 * 0.4 / 0.7, 4 * 0.1 / 0.7, 4 * 0.1 / 0.7, 4 * 0.1 / 0.7]),
    ],
)
def test_draws_by_hand(name: str, expected: list[float]) -> None:
    """Rewards .5, .2, −.2 and −.5 about their mean, beside a group of equals, of which each counts once."""
    rewards, groups = torch.tensor([0.5, 0.2, -0.2, -0.5, 0.0, 0.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    found = draws(FILTRATIONS[name](rewards, groups), groups)
    assert found.tolist() == pytest.approx([*expected, 1.0, 1.0], rel=1e-5)
    shifted = draws(FILTRATIONS[name](rewards + 7, groups), groups)
    torch.testing.assert_close(shifted, found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(FILTRATIONS))
def test_filtration_weighs_whole_answers(name: str) -> None:
    """GRPO's losses times how often each would be drawn: what is between the extremes moves less, or not at all."""
    batch = batch_of(drawn([1.0, 0.6, 0.4, 0.0]), [2, 2, 1, 3])
    plain = made().losses(batch)
    assert batch.rewarded is not None
    times = draws(FILTRATIONS[name](batch.rewarded.rewards, batch.rewarded.groups), batch.rewarded.groups)
    torch.testing.assert_close(made(filtration=name).losses(batch), plain * times)
    step = -gradient(made(filtration=name).losses(batch).sum(), batch)
    assert (step[0, :2] > 0).all() and (step[3] < 0).all()
    assert not torch.allclose(step, -gradient(plain.sum(), batch))


# --- entropy_coef -----------------------------------------------------------------------------------------


def test_the_entropy_bonus_is_the_mean_of_an_answers_tokens() -> None:
    """.1 · (.2 + .4)/2 and .1 · .8 off the losses, padding left out; descent raises it at every token."""
    entropy = torch.tensor([[0.2, 0.4], [0.8, 77.0]], requires_grad=True)
    batch = batch_of(drawn([1.0, 0.0]), [2, 1], statistics={"entropy": entropy})
    objective = made(entropy_coef=0.1)
    assert objective.statistics == ("entropy",) and made().statistics == ()
    found = objective.losses(batch) - made().losses(batch)
    assert found.tolist() == pytest.approx([-0.03, -0.08], rel=1e-5)
    (slope,) = torch.autograd.grad(objective.losses(batch).sum(), entropy)
    assert slope.tolist() == [pytest.approx([-0.05, -0.05]), pytest.approx([-0.1, 0.0])]


# --- token_window -----------------------------------------------------------------------------------------


def learned(step: int, lengths: list[int], **options: Any) -> list[list[bool]]:
    """Which tokens have a gradient in a step."""
    batch = batch_of(drawn([1.0, 0.0], step=step), lengths)
    return (gradient(made(**options).losses(batch).sum(), batch) != 0).tolist()


def test_the_window_moves_with_the_step_and_begins_anew() -> None:
    """Two tokens wide on answers of five and two: 0–1, 2–3, 4, and again; the short one has its part in each."""
    on = [True] * 5
    found = [learned(step, [5, 2], token_window=2) for step in range(4)]
    assert [one[0] for one in found] == [
        [True, True, False, False, False],
        [False, False, True, True, False],
        [False, False, False, False, True],
        [False, True, True, False, False],
    ]
    assert all(one[1][:2] == [True, True] for one in found)
    assert learned(3, [5, 2])[0] == on
    assert learned(1, [5, 2], token_window=2, window_stride=1)[0] == [False, True, True, False, False]


def test_the_mean_is_over_the_window() -> None:
    """GRPO's mean over two of four tokens: each weighs half, not a quarter."""
    batch = batch_of(drawn([1.0, 0.0]), [4, 4])
    whole, part = (gradient(made(**one).losses(batch).sum(), batch) for one in ({}, {"token_window": 2}))
    torch.testing.assert_close(part[0, :2], 2 * whole[0, :2])


# --- etpo -------------------------------------------------------------------------------------------------


def etpo_batch() -> Batch:
    """Log-ratios to the reference 1, 2, 3 and −1, 1; on the policy that drew them."""
    batch = batch_of(drawn([1.0, 0.0]), [3, 2])
    reference = -1 - torch.tensor([[1.0, 2.0, 3.0], [-1.0, 1.0, 99.0]])
    return replace(batch, reference=reference)


def test_etpo_by_hand() -> None:
    """Still to come: 6, 5, 3 and 0, 1; the means at each token 3, 3, 3; advantages ±√½; ρ is 1."""
    losses = OBJECTIVES["etpo"](beta=0.1, advantage="centred").losses(etpo_batch())
    good = [0.5 - 0.1 * (6 - 3), 0.5 - 0.1 * (5 - 3), 0.5 - 0.1 * (3 - 3)]
    bad = [-0.5 - 0.1 * (0 - 3), -0.5 - 0.1 * (1 - 3)]
    assert losses.tolist() == pytest.approx([-sum(good) / 3, -sum(bad) / 2], rel=1e-5)


def test_etpos_tokens_answer_for_what_comes_after_them() -> None:
    """Equal tokens of one answer have unlike gradients by what follows; under `kl` and an entropy bonus they do not."""
    batch = batch_of(drawn([1.0, 0.0]), [3, 3])
    reference = torch.tensor([[-1.0, -1.0, -9.0], [-1.0, -1.0, -1.0]])
    batch = replace(batch, reference=reference, statistics={"entropy": torch.ones(2, 3)})
    step = -gradient(OBJECTIVES["etpo"](beta=0.05).losses(batch).sum(), batch)[0]
    grpo = -gradient(made().losses(batch).sum(), batch)[0]
    assert (step[:2] < grpo[:2]).all(), "the last token strays, and those that led to it share the blame"
    for options in ({"kl": 0.05}, {"entropy_coef": 0.05}):
        other = -gradient(made(**options).losses(batch).sum(), batch)[0]
        torch.testing.assert_close(other[:2], grpo[:2])


def test_etpo_without_a_price_is_grpo() -> None:
    """On answers of unlike length with clips and corrections."""
    batch = random_batch()
    torch.testing.assert_close(OBJECTIVES["etpo"](beta=0.0).losses(batch), made().losses(batch))


def test_etpo_does_not_move_what_stays_with_the_reference() -> None:
    """Of equal rewards, the answer that strays is lowered, the one that does not raised."""
    batch = batch_of(drawn([1.0, 1.0]), [2, 2])
    reference = torch.tensor([[-3.0, -3.0], [-1.0, -1.0]])
    step = -gradient(OBJECTIVES["etpo"]().losses(replace(batch, reference=reference)).sum(), batch)
    assert (step[0] < 0).all() and (step[1] > 0).all()


# --- on their way -----------------------------------------------------------------------------------------


def test_a_batch_knows_scores_baselines_and_the_step(base_dir: Path) -> None:
    """As the examples have them; scorers that one group lacks are no numbers there."""
    policy = Policy.fresh(Base(base_dir, "cpu"), Settings(rank=4, target_modules=TARGETS), seed=1)
    references = References(policy, "base", begins_at_base=True)
    vision = Vision(policy.base.model, base_dir, lambda sha256: b"", 2**20)
    collator = Collator(references, PrefixModel(policy.model), vision, 4096, others=["previous"])

    def example(group: str, *scores: tuple[tuple[str, float], ...]) -> Example:
        answers = tuple(Answer(f"{group}.{n}", (10 + n, EOS), "stop", True, False, (-1.0, -1.0)) for n in range(2))
        labels = tuple(RewardedExample(n, float(n), 1.0, scores[n], is_baseline=n == 1) for n in range(2))
        return Example(group, (2, 5, 6), (), answers, (), (), labels)

    both = (("clip", 1.0), ("judge", 2.0))
    examples = [example("g1", both, both), example("g2", (("clip", 3.0),), (("clip", 4.0),))]
    collator.step = 7
    collator.prepare_reference(examples)
    rewarded = collator.batch(examples).rewarded
    assert rewarded is not None and rewarded.step == 7
    assert rewarded.scores["clip"].tolist() == [1.0, 1.0, 3.0, 4.0]
    assert rewarded.scores["judge"].isnan().tolist() == [False, False, True, True]
    assert rewarded.baseline is not None and rewarded.baseline.tolist() == [False, True, False, True]
    policy.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reward": "gap", "advantage": "leave_one_out"}, "has a baseline of its own"),
        ({"reward": "gap", "advantage": "win_rate"}, "has a baseline of its own"),
        ({"reward_weights": {"clip": 2.0}}, "need multi_objective"),
        ({"window_stride": 4}, "needs a token_window"),
        ({"filtration": "best"}, "there are: none, pow"),
        ({"multi_objective": "sum"}, "multi_objective"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, Any], said: str) -> None:
    """In one line that says which."""
    learner = {"objectives": {"grpo": 1.0}, "options": {"grpo": options}}
    config = TrainingConfig(
        alias="a", base_model="m", base_digest="0" * 64, max_lora_rank=16, lora_modules=[], learner=learner
    )
    with pytest.raises(SettingsError, match=said) as raised:
        read_settings(config)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("learner setting options.grpo")

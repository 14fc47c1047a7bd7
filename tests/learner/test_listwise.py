"""Losses on ranked lists: numbers worked out by hand, directions, and people's rankings as rewards."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learner.errors import SettingsError
from learner.examples import Answer, Example, PairExample, RewardedExample
from learner.missing import explained, idle
from learner.objectives import OBJECTIVES, Batch, Rewarded
from learner.objectives.listwise.ranks import places, relevance
from learner.rankings import with_ranks
from learner.settings import check_fit, read_settings
from server.wire.training import TrainingConfig, TrainingGroup
from tests.learner.batches import gradient, make_batch
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer, candidate, make_group, pair
from tests.learner.tiny import EOS


def ranked(rewards: list[float], groups: list[int] | None = None, **changes: Tensor) -> Batch:
    """The first answers of `make_batch` (Δ = 1, −1.5, .4 of 2, 1 and 2 tokens) as lists with these rewards."""
    batch = replace(make_batch(), **changes)
    count = len(rewards)
    rewarded = Rewarded(
        answers=torch.arange(count),
        groups=torch.tensor(groups or [0] * count),
        rewards=torch.tensor(rewards),
        weights=torch.ones(count),
        sampled=torch.zeros(count, 2),
        step_length=1.0,
        round_length=1.0,
    )
    ends = torch.tensor([[0.1, 0.3], [0.7, 9.0], [0.2, -0.1], [0.0, 0.0]])
    return replace(batch, rewarded=rewarded, statistics={"end_ratio": ends})


def minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x))


# --- order ------------------------------------------------------------------------------------------------


def test_places_and_relevance_are_those_of_the_group() -> None:
    """Two groups mixed; of equals the earlier is first; a group whose rewards are alike is all relevant."""
    rewards, groups = torch.tensor([5.0, 1.0, 7.0, 1.0, 3.0]), torch.tensor([0, 1, 0, 1, 0])
    assert places(rewards, groups).tolist() == [2, 1, 1, 2, 3]
    assert relevance(rewards, groups).tolist() == [0.5, 1.0, 1.0, 1.0, 0.0]


# --- rankdpo ----------------------------------------------------------------------------------------------


def test_rankdpo_by_hand() -> None:
    """Relevance 1, .5 and 0; the policy ranks the answers 1, 3, 2: discounts 1/ln 2, 1/ln 4, 1/ln 3."""
    losses = OBJECTIVES["rankdpo"](beta=0.5).losses(ranked([2.0, 1.0, 0.0]))
    first, third, second = 1 / math.log(2), 1 / math.log(4), 1 / math.log(3)
    middle = math.sqrt(2) - 1
    best = (1 - middle) * (first - third) * minus_log_sigmoid(1.25) + (first - second) * minus_log_sigmoid(0.3)
    assert losses.tolist() == pytest.approx([best, middle * (second - third) * minus_log_sigmoid(-0.95), 0.0], rel=1e-5)


def test_rankdpo_by_the_rewards_places() -> None:
    """`ranked_by = "rewards"`: the answers stand where their rewards put them."""
    losses = OBJECTIVES["rankdpo"](beta=0.5, ranked_by="rewards").losses(ranked([2.0, 1.0, 0.0]))
    first, second, third = 1 / math.log(2), 1 / math.log(3), 1 / math.log(4)
    middle = math.sqrt(2) - 1
    best = (1 - middle) * (first - second) * minus_log_sigmoid(1.25) + (first - third) * minus_log_sigmoid(0.3)
    assert losses.tolist() == pytest.approx([best, middle * (second - third) * minus_log_sigmoid(-0.95), 0.0], rel=1e-5)


def test_rankdpo_is_not_dpo_on_all_pairs() -> None:
    """The weights turn the gradient: it is no multiple of that of `sigmoid` on the list's three pairs."""
    batch = ranked([2.0, 1.0, 0.0])
    found = gradient(OBJECTIVES["rankdpo"](beta=0.5).losses(batch).sum(), batch)
    pairs = replace(batch, chosen=torch.tensor([0, 0, 1]), rejected=torch.tensor([1, 2, 2]))
    plain = gradient(OBJECTIVES["sigmoid"](beta=0.5).losses(pairs).sum(), pairs)
    ratios = (found / plain)[:3, 0]
    assert ratios.max() > ratios.min() + 0.1


def test_rankdpo_learns_from_the_first_step_on() -> None:
    """At the reference every Δ is 0; all pairs have weight all the same, and lists do not touch each other."""
    batch = ranked([2.0, 1.0, 0.0, 5.0], [0, 0, 0, 1])
    batch = replace(batch, reference=batch.logprobs.detach())
    step = -gradient(OBJECTIVES["rankdpo"]().losses(batch).sum(), batch)
    assert (step[0] > 0).all() and (step[2] < 0).all()
    assert step[1, 0] != 0 and (step[3] == 0).all()


# --- dro --------------------------------------------------------------------------------------------------


def test_dro_by_hand() -> None:
    """Mean Δ .5, −1.5 and .2: the expert is 2 above the second, .3 above the third, of a margin of 1."""
    losses = OBJECTIVES["dro"](margin=1.0).losses(ranked([2.0, 1.0, 0.0]))
    assert losses.tolist() == pytest.approx([0.0, 0.0, 0.7], rel=1e-5)


def test_dro_raises_the_expert_against_negatives_that_are_near() -> None:
    """Descent raises the expert, lowers the near negative, and leaves alone the one beyond the margin."""
    batch = ranked([2.0, 1.0, 0.0])
    step = -gradient(OBJECTIVES["dro"](margin=1.0).losses(batch).sum(), batch)
    assert (step[0] > 0).all() and (step[2] < 0).all() and (step[1] == 0).all()


def test_dro_does_not_compare_negatives_with_each_other() -> None:
    """Unlike `rankdpo`: the second of three is a negative as the last is."""
    batch = ranked([2.0, 1.0, 0.0])
    step = -gradient(OBJECTIVES["dro"](margin=5.0).losses(batch).sum(), batch)
    assert step[1, 0] < 0 and (step[2] < 0).all()
    ranks = -gradient(OBJECTIVES["rankdpo"](beta=0.5).losses(batch)[1:].sum(), batch)
    assert ranks[1, 0] > 0


# --- gfn_dpo ----------------------------------------------------------------------------------------------


def test_gfn_dpo_by_hand() -> None:
    """Δ of the first tokens .5 and .4, ends .1 → .3 and .2 → −.1; the worst has a score of −8, α is .1."""
    losses = OBJECTIVES["gfn_dpo"]().losses(ranked([2.0, 1.0, 0.0]))
    assert losses.tolist() == pytest.approx([0.7**2, 0.0, (0.4 - 0.1 - 0.2 + 0.8) ** 2], rel=1e-5)


def tree(again: Tensor, once_more: Tensor) -> Batch:
    """All answers to a question, of a policy that says "a" at most twice: nothing, "a", "aa", each with its end.

    The policy's chances to go on are `again` at the beginning and `once_more` behind one "a"; the reference's are ½.
    """
    zero, half = torch.zeros(()), math.log(2)
    on, stop = again.log() + half, (1 - again).log() + half
    on_2, stop_2 = once_more.log() + half, (1 - once_more).log() + half
    ratios = torch.stack([stop, zero, zero, on, stop_2, zero, on, on_2, zero]).view(3, 3)
    ends = torch.stack([stop, zero, zero, stop, stop_2, zero, stop, stop_2, zero]).view(3, 3)
    batch = ranked([1.0, 1.0, 0.0])
    assert batch.rewarded is not None
    return replace(
        batch,
        logprobs=ratios,
        reference=torch.zeros(3, 3),
        mask=torch.tensor([[True, False, False], [True, True, False], [True, True, True]]),
        may_be_positive=torch.ones(3, dtype=torch.bool),
        statistics={"end_ratio": ends},
    )


@pytest.mark.parametrize("balance", ["detailed", "trajectory"])
def test_flows_balance_where_answers_are_in_proportion_to_their_rewards(balance: str) -> None:
    """By hand: π ∝ π_ref exp(α·score), with "aa" the worst. There, and not at the reference, the loss is 0."""
    worse = math.exp(-0.8)
    whole = 0.5 + 0.25 + 0.25 * worse
    balanced = tree(torch.tensor(0.25 * (1 + worse) / whole), torch.tensor(worse / (1 + worse)))
    assert OBJECTIVES["gfn_dpo"](balance=balance).losses(balanced).tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-10)
    reference = tree(torch.tensor(0.5), torch.tensor(0.5))
    assert float(OBJECTIVES["gfn_dpo"](balance=balance).losses(reference).sum()) == pytest.approx(0.64, rel=1e-5)


@pytest.mark.parametrize("balance", ["detailed", "trajectory"])
def test_descent_on_the_balance_finds_those_proportions(balance: str) -> None:
    """From the reference, by plain gradient descent; the worst answer is not forgotten."""
    chances = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([chances], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        OBJECTIVES["gfn_dpo"](balance=balance).losses(tree(*torch.sigmoid(chances))).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    again, once_more = torch.sigmoid(chances).tolist()
    found = [1 - again, again * (1 - once_more), again * once_more]
    worse = math.exp(-0.8)
    whole = 0.5 + 0.25 + 0.25 * worse
    assert found == pytest.approx([0.5 / whole, 0.25 / whole, 0.25 * worse / whole], abs=1e-3)


def test_gfn_dpo_leaves_out_what_may_not_be_a_positive() -> None:
    """Balance could make it likelier."""
    batch = ranked([2.0, 1.0, 0.0], may_be_positive=torch.tensor([True, True, False, True]))
    assert OBJECTIVES["gfn_dpo"]().losses(batch)[2] == 0


# --- people's rankings ------------------------------------------------------------------------------------


def compared(*pairs: tuple[int, int, str, str]) -> Example:
    """Three answers and pairs (better, worse, source, annotator)."""
    answers = tuple(Answer(f"g.{number}", (10 + number, EOS), "stop", True, False) for number in range(3))
    made = tuple(PairExample(better, worse, 1.0, source, who) for better, worse, source, who in pairs)
    return Example("g", (2, 5), (), answers, made, (), (RewardedExample(0, 9.0, 1.0), RewardedExample(1, 8.0, 1.0)))


def test_a_ranking_becomes_rewards() -> None:
    """2 ≻ 0 ≻ 1: shares 1, ½ and 0 of the comparisons, in place of what scorers said."""
    example = compared((2, 0, "ranking", "ann"), (2, 1, "ranking", "ann"), (0, 1, "ranking", "ann"))
    found = with_ranks(example, 0.7, keep_others=False)
    assert found is not None and found.pairs == example.pairs
    assert [(one.answer, one.reward) for one in found.rewarded] == [(0, 0.5), (1, 0.0), (2, 1.0)]
    assert {one.weight for one in found.rewarded} == {0.7}


def test_people_count_alike_however_much_they_compare() -> None:
    """One ranks three, one chooses between two the other way: 0 has ½ by the one and 0 by the other."""
    rank = ((2, 0, "ranking", "ann"), (2, 1, "ranking", "ann"), (0, 1, "ranking", "ann"))
    found = with_ranks(compared(*rank, (1, 0, "choice", "bob")), 1.0, keep_others=False)
    assert found is not None
    assert {one.answer: one.reward for one in found.rewarded} == {0: 0.25, 1: 0.5, 2: 1.0}


def test_rules_do_not_rank_and_what_is_taken_back_ranks_no_more() -> None:
    """A safety pair leaves the scorers' rewards; without its pairs a ranked example loses its order, and ends."""
    example = compared((0, 1, "safety", "rules"))
    kept = with_ranks(example, 1.0, keep_others=True)
    assert kept is not None and kept.pairs and [one.reward for one in kept.rewarded] == [9.0, 8.0]
    dropped = with_ranks(example, 1.0, keep_others=False)
    assert dropped is not None and not dropped.pairs
    found = with_ranks(compared((0, 1, "choice", "ann")), 1.0, keep_others=False)
    assert found is not None and all(one.is_ranked for one in found.rewarded)
    assert with_ranks(replace(found, pairs=()), 1.0, keep_others=False) is None


def config(**learner: object) -> TrainingConfig:
    return TrainingConfig(
        alias="a", base_model="m", base_digest="0" * 64, max_lora_rank=16, lora_modules=[], learner=learner
    )


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        ({"rank_rewards": True}, "none of the objectives is on ranked lists"),
        ({"rank_rewards": True, "objectives": {"rankdpo": 1.0, "grpo": 1.0}}, "grpo learns from what was drawn alone"),
    ],
)
def test_rankings_go_to_objectives_on_lists_alone(learner: dict[str, object], said: str) -> None:
    """A policy gradient would take an order over answers that it never drew for its own."""
    with pytest.raises(SettingsError, match=said):
        read_settings(config(**learner))


def test_what_the_base_cannot_do_is_refused() -> None:
    """Images for a model without any, and a marker that is no text."""
    mdpo = read_settings(config(objectives={"mdpo": 1.0}))
    with pytest.raises(SettingsError, match="mdpo needs images, and the base model sees none"):
        check_fit(mdpo, 64, None)
    check_fit(mdpo, 64, 61)
    for marker in (64, 61, -1):
        marked = read_settings(config(objectives={"c_rlft": 1.0}, options={"c_rlft": {"marker": [5, marker]}}))
        with pytest.raises(SettingsError, match="no text tokens"):
            check_fit(marked, 64, 61)


# --- what is missing --------------------------------------------------------------------------------------


def test_what_is_missing_is_said(server: FakeServer) -> None:
    """Which objective needs what, what there is instead, and what to set."""
    groups = [make_group(number, server.base_digest, server) for number in (2, 5)]
    line = explained(["rankdpo", "grpo"], groups)
    assert line == (
        "rankdpo and grpo need rewards; the signals hold 4 thumbs; "
        "set [aliases.signals] reward_groups = true with scorers and best_of above 1"
    )
    assert "rank_rewards = true" in explained(["dro"], [make_group(0, server.base_digest, server)])
    assert explained(["sigmoid"], []).startswith("sigmoid needs pairs; there are no signals; let people choose")
    unused = "none of them can be used, see what was skipped"
    assert explained(["kto"], groups) == f"kto needs thumbs; the signals hold 4 thumbs; {unused}"


def test_an_objective_of_no_weight_misses_nothing() -> None:
    """And one with examples is not idle."""
    example = compared((0, 1, "choice", "ann"))
    assert idle({"sigmoid": 1.0, "kto": 1.0, "npo": 0.0, "grpo": 1.0}, [example]) == ["kto"]


def test_a_round_without_anything_for_its_objectives_is_skipped(server: FakeServer, make_learner: MakeLearner) -> None:
    """The report says what is missing, not only that."""
    server.config["learner"]["objectives"] = {"rankdpo": 1.0}
    assert make_learner().run() == 1
    (report,) = server.reports
    assert report.outcome == "skipped"
    assert "rankdpo needs rewards; the signals hold 8 pairs and 8 thumbs" in report.reason
    assert "reward_groups = true" in report.reason and "rank_rewards = true" in report.reason


def rank(number: int, server: FakeServer) -> TrainingGroup:
    """A person ranks three answers, one of them typed."""
    name = f"r{number:03d}"
    good, fair = (candidate(f"{name}-{word}", [word, 30 + number, EOS]) for word in (10, 15))
    typed = candidate(f"{name}-typed", [20, 30 + number, EOS], adapter="human", logprobs=[])
    pairs = [
        pair(better.id, worse.id, source="ranking", annotator=f"ann{number}")
        for better, worse in ((good, fair), (good, typed), (fair, typed))
    ]
    plain = make_group(number, server.base_digest, server)
    changes = {"id": name, "candidates": [good, fair, typed], "pairs": pairs, "unpaired": []}
    return plain.model_copy(update=changes)


@pytest.mark.parametrize("name", ["rankdpo", "dro", "gfn_dpo"])
def test_a_round_learns_from_rankings_by_people(name: str, server: FakeServer, make_learner: MakeLearner) -> None:
    """Without any pairwise objective: what people put first becomes likelier than what they put last."""
    server.config["learner"] |= {"objectives": {name: 1.0}, "rank_rewards": True, "max_kl": 50.0}
    for number in range(8):
        server.tell(rank(number, server))
    assert make_learner().run() == 0
    (report,) = server.reports
    assert report.outcome == "uploaded", report.reason
    assert report.detail["after"]["margin"] > report.detail["before"]["margin"]
    (adapter,) = server.adapters.values()
    assert {f"ann{number}" for number in range(8)} <= set(adapter[0].annotators)
    assert adapter[0].sources.keys() == {"ranking", "choice"} and adapter[0].sources["ranking"] == 24


def test_idle_objectives_stand_in_the_report(server: FakeServer, make_learner: MakeLearner) -> None:
    """A round that has something for the others goes on."""
    server.config["learner"]["objectives"] = {"sigmoid": 1.0, "grpo": 1.0}
    assert make_learner().run() == 0
    (report,) = server.reports
    assert report.detail["without_examples"].startswith("grpo needs rewards; the signals hold")


def test_only_direct_comparisons_rank() -> None:
    """Pairs that a thumb and a scorer made together, or an answer asked for again, do not."""
    example = compared((0, 1, "thumbs", "ann"), (1, 2, "regenerate", "ann"))
    kept = with_ranks(example, 1.0, keep_others=True)
    assert kept is not None and not any(one.is_ranked for one in kept.rewarded)

"""Selection is exact: the probability it reports is the probability it has."""

from __future__ import annotations

import itertools
import math
import random
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reward.selection import STRATEGIES, choose, entropy, margin, ranked, rival
from reward.selection.consensus import agreement
from reward.selection.strategies import Argmax, Mbr, Pessimistic, Soft, Strategy
from reward.types import Judgement
from server.config.selection import STEPWISE
from server.wire.chat import StrategyName
from tests.reward.judged import judged

ALL = [build(0.5, 0.3) for build in STRATEGIES.values()]
TOTALS = st.lists(st.floats(-50, 50), min_size=1, max_size=12)
SCALE = st.floats(0.01, 20)
POOLS = st.lists(
    st.builds(
        judged,
        st.none() | st.floats(-1e6, 1e6),
        blocked=st.booleans(),
        text=st.text("ab ", max_size=8),
        finish_reason=st.sampled_from(["stop", "length"]),
    ),
    max_size=10,
)
SHARE = st.floats(0, 1, allow_subnormal=False)  # a part of the smallest number is none
DRAW = st.floats(0, 1, exclude_max=True)
every_strategy = pytest.mark.parametrize("strategy", ALL, ids=lambda one: one.name)


def shares(strategy: Strategy, totals: list[float]) -> tuple[float, ...]:
    return strategy.probabilities([judged(total) for total in totals])


def test_the_names_in_requests_are_those_of_the_table() -> None:
    """What a request or a configuration may name exists, under its own name."""
    assert set(get_args(StrategyName)) == {*STRATEGIES, STEPWISE}
    assert [one.name for one in ALL] == list(STRATEGIES)


@every_strategy
@given(pool=POOLS, explore=SHARE, draw=DRAW)
def test_probabilities_are_a_distribution_over_the_feasible(
    strategy: Strategy, pool: list[Judgement], explore: float, draw: float
) -> None:
    """They sum to 1, none is negative, what is not feasible has 0, and what was chosen had a chance."""
    selection = choose(strategy, pool, explore=explore, draw=draw)
    assert len(selection.probabilities) == len(pool)
    assert all(
        0 <= share <= 1 + 1e-9 and (one.is_feasible or share == 0)
        for one, share in zip(pool, selection.probabilities, strict=True)
    )
    if not any(one.is_feasible for one in pool):
        assert selection.index is None and sum(selection.probabilities) == 0
    else:
        assert selection.index is not None
        assert math.fsum(selection.probabilities) == pytest.approx(1)
        assert selection.probability == selection.probabilities[selection.index] > 0


@every_strategy
@pytest.mark.parametrize("explore", [0.0, 0.3, 1.0])
def test_an_even_sweep_of_draws_wins_as_often_as_the_probabilities_say(strategy: Strategy, explore: float) -> None:
    """Exactly: over evenly spaced draws each candidate's share is its probability, but for one draw at each border."""
    texts = ("a cat", "a cat and a dog", "a dog", "a cat", "a cow")
    pool = [judged(total, text=text) for total, text in zip((1.0, 1.2, 0.9, None, -3.0), texts, strict=True)]
    pool.insert(2, judged(9.0, blocked=True))
    draws = 2000
    wins = [0] * len(pool)
    for step in range(draws):
        index = choose(strategy, pool, explore=explore, draw=(step + 0.5) / draws).index
        assert index is not None
        wins[index] += 1
    expected = choose(strategy, pool, explore=explore, draw=0.5).probabilities
    assert [won / draws for won in wins] == pytest.approx(expected, abs=2 * len(pool) / draws)


@every_strategy
def test_random_draws_win_as_often_as_the_probabilities_say(strategy: Strategy) -> None:
    """As in production: the draw is a random number."""
    pool = [judged(total, text=f"a {total}") for total in (0.1, 0.4, 0.5, 0.9)]
    rng = random.Random(0)
    draws = 20_000
    wins = [0] * len(pool)
    for _ in range(draws):
        index = choose(strategy, pool, explore=0.2, draw=rng.random()).index
        assert index is not None
        wins[index] += 1
    expected = choose(strategy, pool, explore=0.2, draw=0.5).probabilities
    assert [won / draws for won in wins] == pytest.approx(expected, abs=0.015)


@every_strategy
@given(totals=TOTALS, data=st.data())
def test_order_and_origin_do_not_matter(strategy: Strategy, totals: list[float], data: st.DataObject) -> None:
    """Candidates in another order have the same chances; so have totals that are all higher by the same."""
    assume(len(set(totals)) == len(totals))
    order = data.draw(st.permutations(range(len(totals))))
    before, after = shares(strategy, totals), shares(strategy, [totals[index] for index in order])
    assert [before[index] for index in order] == pytest.approx(after, abs=1e-9)
    if min((abs(a - b) for a, b in itertools.combinations(totals, 2)), default=1) > 1e-6:
        assert shares(strategy, [total + 8 for total in totals]) == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize("kind", [Soft, Pessimistic])
@given(totals=TOTALS, scale=SCALE, factor=st.floats(0.1, 10))
def test_totals_and_scale_in_another_unit(kind: type, totals: list[float], scale: float, factor: float) -> None:
    """λ and β have the totals' unit: only the ratio counts."""
    scaled = shares(kind(scale * factor), [total * factor for total in totals])
    assert scaled == pytest.approx(shares(kind(scale), totals), abs=1e-9)


@pytest.mark.parametrize("kind", [Soft, Pessimistic])
@given(totals=TOTALS, scale=SCALE)
def test_a_higher_total_never_has_a_lower_chance(kind: type, totals: list[float], scale: float) -> None:
    """Of two candidates the better one is at least as likely."""
    found = shares(kind(scale), totals)
    for (one, mine), (other, its) in itertools.combinations(zip(totals, found, strict=True), 2):
        assert (one - other) * (mine - its) >= -1e-9


@pytest.mark.parametrize("kind", [Soft, Pessimistic])
@given(totals=TOTALS)
def test_the_limits_are_argmax_and_uniform(kind: type, totals: list[float]) -> None:
    """A scale near zero takes the best (equals share), a very large one takes all alike."""
    assume(all(abs(a - b) > 1e-3 for a, b in itertools.combinations(totals, 2)))
    assert shares(kind(1e-9), totals) == pytest.approx(shares(Argmax(), totals), abs=1e-6)
    assert shares(kind(1e9), totals) == pytest.approx([1 / len(totals)] * len(totals), abs=1e-6)


@given(totals=TOTALS, beta=SCALE)
def test_the_closed_form_is_the_numeric_solution(totals: list[float], beta: float) -> None:
    """λ found by bisection of (1/N) Σ max(0, (rᵢ − λ)/β) = 1 gives the same probabilities."""
    low, high = min(totals) - beta * len(totals) - 1, max(totals)
    for _ in range(200):
        middle = (low + high) / 2
        mean = sum(max(0.0, (total - middle) / beta) for total in totals) / len(totals)
        low, high = (middle, high) if mean > 1 else (low, middle)
    weights = [max(0.0, (total - low) / beta) for total in totals]
    assert shares(Pessimistic(beta), totals) == pytest.approx([one / len(totals) for one in weights], abs=1e-6)


@given(count=st.integers(2, 400), rest=st.floats(-3, 3), lead=st.floats(0, 5), beta=st.floats(0.1, 5))
def test_pessimism_bounds_what_one_overrated_candidate_gains(count: int, rest: float, lead: float, beta: float) -> None:
    """However many there are, a lead of x over equal others gives at most 1 + x/β times an even chance."""
    found = shares(Pessimistic(beta), [rest + lead, *[rest] * (count - 1)])
    assert found[0] * count <= 1 + lead / beta + 1e-6


@pytest.mark.parametrize("totals", [[1e308, -1e308], [5.0, 5.0, 5.0], [0.0], [-1e-300, 1e-300]])
@every_strategy
def test_extreme_totals_still_give_a_distribution(strategy: Strategy, totals: list[float]) -> None:
    """No overflow, no NaN."""
    found = shares(strategy, totals)
    assert math.fsum(found) == pytest.approx(1)
    assert all(share >= 0 for share in found)


def test_argmax_takes_the_best_feasible_candidate() -> None:
    """A blocked candidate never wins, however well it scores; the first of equals does."""
    assert choose(Argmax(), [judged(1.0), judged(9.0, blocked=True), judged(2.0), judged(2.0)]).index == 2


@pytest.mark.parametrize("strategy", [one for one in ALL if one.needs_totals], ids=lambda one: one.name)
def test_without_totals_the_first_clean_candidate_is_taken(strategy: Strategy) -> None:
    """Taste fails open, and not at random (I7)."""
    selection = choose(strategy, [judged(None, blocked=True), judged(None), judged(None)], draw=0.9)
    assert (selection.index, selection.probability) == (1, 1.0)


@every_strategy
def test_a_candidate_without_a_total_loses_to_any_with_one(strategy: Strategy) -> None:
    """An unscored candidate is never a maximum."""
    assert choose(strategy, [judged(None), judged(-100.0)], draw=0.0).index == 1


def test_nothing_feasible_selects_nothing() -> None:
    """All blocked: no index, and no probability for anyone."""
    selection = choose(Argmax(), [judged(1.0, blocked=True)])
    assert selection.index is None
    assert selection.probabilities == (0.0,)


def test_consensus_is_what_most_say() -> None:
    """The outlier loses, however it scores; without any scorer too; of the same words the higher total wins."""
    texts = ["a red cup on a plate", "a red cup on a tray", "a red cup on a plate", "forty-two"]
    assert choose(Mbr(), [judged(None, text=text) for text in texts]).index == 0
    totals = (0.0, 1.0, 2.0, 99.0)
    pool = [judged(total, text=text) for total, text in zip(totals, texts, strict=True)]
    assert choose(Mbr(), pool).index == 2


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_agreement_lies_between_nothing_and_all(texts: list[str]) -> None:
    """Within [0, 1]; 1 for texts that are all the same."""
    assert all(0 <= one <= 1 + 1e-9 for one in agreement(texts))
    assert agreement([texts[0]] * 3) == pytest.approx([1, 1, 1])


def test_agreement_of_languages_without_spaces() -> None:
    """Characters, not words, are compared."""
    shared = agreement(["赤いカップがあります", "赤いカップが二つあります", "犬がいない"])
    assert shared[2] < min(shared[:2])


@pytest.mark.parametrize("strategy", ALL, ids=lambda one: one.name)
def test_the_reason_is_in_words(strategy: Strategy) -> None:
    """It says what was done, and names no internals."""
    reason = choose(strategy, [judged(1.0), judged(2.0)], draw=0.5).reason
    assert "2 feasible candidates" in reason and "equal" not in reason


def test_that_all_totals_are_equal_is_no_reason_and_is_said() -> None:
    """As with `implicit` alone before the first adapter: nothing spoke for the candidate that was taken."""
    assert choose(Argmax(), [judged(0.0), judged(0.0)]).reason.endswith("; all totals are equal")
    assert "equal" not in choose(Argmax(), [judged(0.0)]).reason
    assert "equal" not in choose(Mbr(), [judged(0.0), judged(0.0)]).reason


def test_ranked_keeps_the_winner_first_and_leaves_out_the_blocked() -> None:
    """Further choices follow by falling total."""
    judgements = [judged(1.0), judged(5.0, blocked=True), judged(3.0), judged(None)]
    assert ranked(judgements, 0, 3) == (0, 2, 3)
    assert ranked(judgements, 2, 1) == (2,)


def test_the_rival_is_the_nearest_that_says_something_else() -> None:
    """Another order says nothing new, another wording is about style; a blocked one is never shown."""
    texts = [
        "a cat and a dog",
        "a dog and a cat.",
        "I can see a cat and also a dog",
        "a cat and a dog and a cow",
    ]
    judgements = [judged(1.0, text=text) for text in texts]
    assert rival(judgements, 0) == 3
    assert rival(judgements[:3], 0) == 2
    assert rival(judgements[:2], 0) is None
    assert rival(judgements[:3], 0, of_content=True) is None
    assert rival(judgements, 0, of_content=True) == 3
    assert rival([*judgements[:2], judged(1.0, blocked=True, text="a cow")], 0) is None


def test_an_ensemble_is_undecided_where_totals_are_alike() -> None:
    """By hand: of softmax(ln 3, 0) = (3/4, 1/4) the entropy is .8113 bits, of at most one."""
    judgements = [judged(math.log(3)), judged(0.0), judged(9.0, blocked=True), judged(None)]
    assert margin(judgements, 0, 1) == pytest.approx(math.log(3))
    assert margin(judgements, 0, 3) == 0
    assert entropy(judgements) == pytest.approx(0.8113, abs=1e-4)
    assert entropy([judged(2.0)] * 3) == pytest.approx(1)
    assert entropy([judged(1000.0), judged(-1000.0)]) == 0
    assert entropy([judged(1.0), judged(None)]) == 1


def test_where_all_say_the_same_the_rival_is_worded_most_differently() -> None:
    """Of nearly the same words nobody prefers one."""
    texts = ["a cat", "a cat.", "the cat", "I can see that there is a cat here"]
    assert rival([judged(1.0, text=text) for text in texts], 0) == 3

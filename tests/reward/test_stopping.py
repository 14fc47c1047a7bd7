"""Waves stop when one more candidate is not worth its cost."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.selection.stopping import Habits, Pandora, Prior, expected_gain, novelty, predicted

MEAN = st.floats(-5, 5)
STD = st.floats(0.05, 5)
COST = st.floats(0.001, 2)
TOTALS = st.lists(st.floats(-10, 10), min_size=1, max_size=30)


@given(mean=MEAN, std=STD, best=st.floats(-8, 8))
def test_the_expected_gain_is_the_integral(mean: float, std: float, best: float) -> None:
    """The closed form against a sum over 1000 quantiles."""
    normal = statistics.NormalDist(mean, std)
    draws = [normal.inv_cdf((step + 0.5) / 1000) for step in range(1000)]
    summed = statistics.fmean(max(0.0, draw - best) for draw in draws)
    assert expected_gain(best, mean, std) == pytest.approx(summed, abs=0.01 * std)


@given(totals=TOTALS, cost=COST)
def test_the_rule_is_to_go_on_below_the_reservation_value(totals: list[float], cost: float) -> None:
    """Weitzman's rule: σ, found by bisection of E[max(0, X − σ)] = cost, against the best total."""
    mean, std = predicted(totals, Prior())
    low, high = mean - cost - std, mean + 40 * std
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_gain(middle, mean, std) > cost else (low, middle)
    if abs(low - max(totals)) > 1e-6:
        assert Pandora(cost, Prior()).wants_more(totals) is (max(totals) < low)


@given(totals=TOTALS, shift=st.integers(-8, 8))
def test_prompts_on_which_all_is_higher_are_searched_alike(totals: list[float], shift: int) -> None:
    """Where prompts' means are known to differ widely, only differences within a prompt count."""
    prior = Prior(mean_variance=1e9)
    gains = [
        expected_gain(max(some), *predicted(some, prior)) for some in (totals, [total + shift for total in totals])
    ]
    assert gains[0] == pytest.approx(gains[1], abs=1e-3)


def test_nothing_to_choose_from_asks_on_and_agreement_ends_it() -> None:
    """Without one candidate that may be chosen there is all to gain; eight alike are enough; one far ahead is too."""
    rule = Pandora(0.1, Prior())
    assert rule.wants_more([])
    assert rule.wants_more([0.0, 0.5])
    assert not rule.wants_more([1.0] * 8)
    assert not rule.wants_more([0.0, 0.1, -0.2, 5.0])


def test_an_answer_that_was_there_before_gains_nothing() -> None:
    """Where answers repeat themselves one more is seldom new, and its gain counts as seldom."""
    assert novelty(["a", "b", "c", "d"]) == 1
    assert novelty(["a", "a", "a", "a"]) == 1 / 5
    assert novelty(["a", "a", "a", "b"]) == 2 / 5
    totals, rule = [0.0, 1.0], Pandora(0.02, Prior())
    assert rule.wants_more(totals)
    assert not rule.wants_more(totals, novelty(["a", "b"] * 8))


@pytest.mark.parametrize("cost", [0.05, 0.1])
def test_repeating_answers_are_searched_better_for_it(cost: float) -> None:
    """Prompts with few possible answers and prompts with many: the best total less what was paid is higher than if
    every repetition were taken for something new.
    """
    rng = random.Random(3)
    worth = {True: 0.0, False: 0.0}
    habits = {True: Habits(), False: Habits()}
    for _ in range(1500):
        kinds = rng.choice((2, 3, 40))
        answers = [(f"{kind}", rng.gauss(0, 1)) for kind in range(kinds)]
        drawn = [rng.choice(answers) for _ in range(24)]
        for is_aware, known in habits.items():
            rule, count = Pandora(cost, known.prior()), 4
            while count < len(drawn):
                totals = [total for _, total in drawn[:count]]
                if is_aware:
                    asked = rule.wants_more(list(dict(drawn[:count]).values()), novelty([a for a, _ in drawn[:count]]))
                else:
                    asked = rule.wants_more(totals)
                if not asked:
                    break
                count += 2
            known.observe(list(dict(drawn[:4]).values()) if is_aware else [total for _, total in drawn[:4]])
            worth[is_aware] += max(total for _, total in drawn[:count]) - cost * count
    assert worth[True] > worth[False]


def pools(*spreads: float, count: int = 1500) -> list[list[float]]:
    """Totals of prompts, each with its own mean, and one of these spreads."""
    rng = random.Random(1)
    found = []
    for _ in range(count):
        mean, spread = rng.gauss(0, 1), rng.choice(spreads)
        found.append([rng.gauss(mean, spread) for _ in range(24)])
    return found


def searched(world: list[list[float]], cost: float) -> list[int]:
    """How many the rule takes of each prompt, learning as it goes: four, then two at a time."""
    habits, taken = Habits(), []
    for pool in world:
        count, rule = 4, Pandora(cost, habits.prior())
        while count < len(pool) and rule.wants_more(pool[:count]):
            count += 2
        habits.observe(pool[:4])
        taken.append(count)
    return taken


def test_a_higher_cost_stops_earlier_and_a_wider_spread_later() -> None:
    """Mean numbers of candidates fall with the cost, and rise with the spread."""
    by_cost = [statistics.fmean(searched(pools(1.0, count=200), cost)) for cost in (0.02, 0.05, 0.1)]
    assert all(one > other for one, other in itertools.pairwise(by_cost))
    by_spread = [statistics.fmean(searched(pools(spread, count=200), 0.05)) for spread in (0.3, 1.0, 3.0)]
    assert all(one < other for one, other in itertools.pairwise(by_spread))


@pytest.mark.parametrize("spreads", [(1.0,), (0.5,), (0.2, 1.5), (0.05, 0.3, 1.5)])
def test_it_beats_every_fixed_number(spreads: tuple[float, ...]) -> None:
    """Best total less what was paid is more than for any one number of candidates, on prompts alike and unlike."""
    cost, world = 0.05, pools(*spreads)
    fixed = max(statistics.fmean(max(pool[:count]) - cost * count for pool in world) for count in range(1, 25))
    taken = searched(world, cost)
    assert statistics.fmean(max(pool[:count]) - cost * count for pool, count in zip(world, taken, strict=True)) > fixed


def test_habits_are_learned() -> None:
    """What prompts are like is found from their first candidates: mean, its spread, and the spread within."""
    habits = Habits()
    for pool in pools(0.5):
        habits.observe(pool[:4])
    prior = habits.prior()
    assert prior.mean == pytest.approx(0, abs=0.25)
    assert prior.mean_variance == pytest.approx(1, rel=0.3)
    assert prior.variance == pytest.approx(0.25, rel=0.2)
    assert prior.strength > 8
    unlike = Habits()
    for pool in pools(0.05, 0.3, 1.5):
        unlike.observe(pool[:4])
    assert unlike.prior().strength < 2


@given(groups=st.lists(st.lists(st.floats(-1e100, 1e100), max_size=5), max_size=40), totals=TOTALS)
def test_habits_of_anything_are_usable(groups: list[list[float]], totals: list[float]) -> None:
    """Constant totals, wild ones, hardly any: the rule still decides."""
    habits = Habits()
    for group in groups:
        habits.observe(group)
    assert Pandora(0.1, habits.prior()).wants_more(totals) in (True, False)
    mean, std = predicted(totals, habits.prior())
    assert math.isfinite(mean) and std > 0

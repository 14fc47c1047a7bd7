"""Combiners: many values, one total."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.ensemble import COMBINERS, LengthPenalty
from reward.ensemble.combining import lambda_harmonic

PARTS = st.lists(st.tuples(st.floats(-10, 10), st.floats(0.1, 5)), min_size=1, max_size=6)
every_combiner = pytest.mark.parametrize("name", COMBINERS)


@every_combiner
@given(parts=PARTS)
def test_one_scorer_of_weight_one_is_the_total(name: str, parts: list[tuple[float, float]]) -> None:
    """With nothing to combine nothing changes."""
    assert COMBINERS[name]([parts[0][0]], [1.0]) == pytest.approx(parts[0][0])


@pytest.mark.parametrize("name", [name for name in COMBINERS if name != "mean_minus_std"])
@given(parts=PARTS, raised=st.integers(0, 5), by=st.floats(0, 5))
def test_what_a_scorer_likes_better_is_no_worse(
    name: str, parts: list[tuple[float, float]], raised: int, by: float
) -> None:
    """One value higher never lowers the total (where disagreement is punished, it may)."""
    values, weights = [value for value, _ in parts], [weight for _, weight in parts]
    better = [value + by * (index == raised) for index, value in enumerate(values)]
    assert COMBINERS[name](better, weights) >= COMBINERS[name](values, weights) - 1e-9


@every_combiner
@given(parts=PARTS)
def test_the_scorers_order_does_not_matter(name: str, parts: list[tuple[float, float]]) -> None:
    """Forwards as backwards."""
    both = [COMBINERS[name](*map(list, zip(*order, strict=True))) for order in (parts, parts[::-1])]
    assert both[0] == pytest.approx(both[1])


def test_by_hand() -> None:
    """Each combiner on the same three values."""
    values, weights = [1.0, 2.0, -3.0], [1.0, 2.0, 1.0]
    assert COMBINERS["sum"](values, weights) == 2.0
    assert COMBINERS["min"](values, weights) == -3.0
    assert COMBINERS["mean_minus_std"](values, weights) == pytest.approx(2 / 3 - math.sqrt(74 / 9))


@given(parts=PARTS)
def test_lambda_harmonic_is_the_harmonic_mean_of_shares(parts: list[tuple[float, float]]) -> None:
    """Computed the plain way: the logistic function, the weighted harmonic mean, the inverse."""
    values, weights = [value for value, _ in parts], [weight for _, weight in parts]
    shares = [1 / (1 + math.exp(-value)) for value in values]
    mean = sum(weights) / sum(weight / share for weight, share in zip(weights, shares, strict=True))
    assert lambda_harmonic(values, weights) == pytest.approx(math.log(mean / (1 - mean)), abs=1e-6)
    assert min(values) - 1e-9 <= lambda_harmonic(values, weights) <= max(values) + 1e-9


def test_length_costs_beyond_its_bounds_only() -> None:
    """Nothing within; the strength at twice the length, and at none; more with every token."""
    penalty = LengthPenalty(3.0, min_tokens=10, max_tokens=20, exponent=2.0)
    assert [penalty(tokens) for tokens in (10, 15, 20)] == [0, 0, 0]
    assert (penalty(40), penalty(0)) == (3.0, 3.0)
    longer = [penalty(tokens) for tokens in range(20, 200)]
    assert all(one < other for one, other in itertools.pairwise(longer))
    assert LengthPenalty(3.0, min_tokens=10)(10_000) == 0

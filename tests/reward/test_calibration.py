"""Calibration is robust: a common unit, whatever scorers say."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.ensemble.calibration import FARTHEST, KEPT_VALUES, PRIOR_VALUES, Calibration, RunningScale

VALUES = st.lists(st.floats(-1e100, 1e100), max_size=40)


def normal(count: int, mean: float = 0.0, deviation: float = 1.0, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, deviation) for _ in range(count)]


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-400.0, 0.01), (7.0, 1e5)])
def test_any_unit_becomes_standard_deviations(mean: float, deviation: float) -> None:
    """After some hundred values: centre 0, spread 1 within a fifth, whatever the scorer's own unit."""
    scale = RunningScale()
    scale.observe(normal(KEPT_VALUES, mean, deviation))
    found = [scale.standardise(value) for value in normal(2000, mean, deviation, seed=1)]
    assert statistics.fmean(found) == pytest.approx(0, abs=0.2)
    assert statistics.stdev(found) == pytest.approx(1, abs=0.25)


def test_a_cold_start_is_the_scorers_own_unit() -> None:
    """Nothing observed: the value itself; then the scale goes over, half way after so many values."""
    scale = RunningScale()
    assert scale.standardise(0.25) == 0.25
    scale.observe([0.0, 100.0] * (PRIOR_VALUES // 2))
    assert scale.standardise(50.0 + math.sqrt(50 * 1.4826)) == pytest.approx(1)


@pytest.mark.parametrize("wild", [1e100, -1e100])
def test_one_wild_value_moves_little(wild: float) -> None:
    """Neither for the others, nor as a total that decides alone."""
    with_wild, without = RunningScale(), RunningScale()
    values = normal(100)
    without.observe(values)
    with_wild.observe([*values, wild])
    assert with_wild.standardise(1.0) == pytest.approx(without.standardise(1.0), abs=0.1)
    assert abs(with_wild.standardise(wild)) == FARTHEST


def test_a_scorer_that_nearly_always_says_the_same_keeps_its_unit() -> None:
    """A spread of nothing is no unit: the rare other value counts as what it is."""
    scale = RunningScale()
    scale.observe([2.0] * 100 + [3.0])
    assert scale.standardise(2.0) == 0
    assert scale.standardise(3.0) == 1


def test_it_follows_what_changes_and_forgets() -> None:
    """Bounded memory: only the last values count."""
    scale = RunningScale()
    scale.observe(normal(5000, 100.0))
    scale.observe(normal(KEPT_VALUES, 0.0))
    assert abs(scale.standardise(0.0)) < 0.2


def test_another_version_starts_anew() -> None:
    """What the old version said is no measure of the new one's values."""
    calibration = Calibration()
    calibration.of(0, "1").observe(normal(100, 1000.0))
    assert calibration.of(0, "1").standardise(0.5) == -FARTHEST
    assert calibration.of(0, "2").standardise(0.5) == 0.5


@given(batches=st.lists(VALUES, max_size=6), one=st.floats(-1e100, 1e100), other=st.floats(-1e100, 1e100))
def test_always_a_number_and_in_order(batches: list[list[float]], one: float, other: float) -> None:
    """Finite, bounded, and a higher value never becomes a lower one."""
    scale = RunningScale()
    for batch in batches:
        scale.observe(batch)
    low, high = scale.standardise(min(one, other)), scale.standardise(max(one, other))
    assert -FARTHEST <= low <= high <= FARTHEST

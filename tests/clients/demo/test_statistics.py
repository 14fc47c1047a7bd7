"""Intervals of the demo's figures, against known values and by their coverage."""

from __future__ import annotations

import math

import pytest

from clients.demo.statistics import mean_difference, ratio_of_shares, share_over_scenes, wilson


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (500, 500, 0.9924, 1.0)],
)
def test_wilson_matches_published_values(hits: int, total: int, low: float, high: float) -> None:
    """Wilson (1927) at 95%."""
    figure = wilson(hits, total)
    assert (figure.value, figure.low, figure.high) == pytest.approx((hits / total, low, high), abs=1e-4)


def test_a_share_of_nothing_is_not_a_number() -> None:
    """And its interval is everything."""
    figure = wilson(0, 0)
    assert math.isnan(figure.value) and (figure.low, figure.high) == (0.0, 1.0)
    assert math.isnan(share_over_scenes([]).value)


def test_scenes_and_not_objects_are_resampled() -> None:
    """Cases that come together widen the interval: 10 scenes of 10 like objects are 10 cases, not 100."""
    clustered = share_over_scenes([(10.0, 10.0)] * 5 + [(0.0, 10.0)] * 5)
    spread = share_over_scenes([(1.0, 1.0)] * 50 + [(0.0, 1.0)] * 50)
    assert clustered.value == spread.value == 0.5
    assert clustered.high - clustered.low > 2 * (spread.high - spread.low)


def test_a_drop_is_paired() -> None:
    """The same items right before and after: no drop, and no doubt about it."""
    same = mean_difference([True] * 90 + [False] * 10, [True] * 90 + [False] * 10)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    worse = mean_difference([True] * 100, [True] * 80 + [False] * 20)
    assert worse.value == pytest.approx(0.2) and worse.low > 0.1


def test_a_ratio_of_leaks() -> None:
    """A tenth of before, with an interval around it; without any before there is no ratio."""
    before = [(1.0, 1.0)] * 50 + [(0.0, 1.0)] * 450
    after = [(1.0, 10.0)] * 5 + [(0.0, 10.0)] * 495
    figure = ratio_of_shares(after, before)
    assert figure.value == pytest.approx(0.01) and figure.low <= figure.value <= figure.high
    assert math.isnan(ratio_of_shares(after, [(0.0, 1.0)] * 500).value)

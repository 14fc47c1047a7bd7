"""Intervals, and what they say about a margin."""

from __future__ import annotations

import math
import random

import pytest

from server.adapters.gate import checks
from server.adapters.gate.statistics import (
    Interval,
    mean_interval,
    outcome,
    overall,
    paired_interval,
    ratio_interval,
    student,
    wilson_interval,
    win_rate_interval,
)
from server.config import GateConfig


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.01, 0.3, "passed"), (-0.02, -0.02, "passed"), (-0.3, -0.03, "failed"), (-0.1, 0.1, "inconclusive")],
)
def test_an_interval_passes_inside_fails_beyond_and_else_says_nothing(low: float, high: float, expected: str) -> None:
    """Only an interval that lies on one side of the margin decides."""
    assert outcome(Interval((low + high) / 2, low, high, 9), at_least=-0.02) == expected
    assert outcome(Interval((low + high) / 2, -high, -low, 9), at_most=0.02) == expected


def test_nothing_measured_decides_nothing() -> None:
    """Neither an empty sample nor an empty gate passes."""
    assert outcome(mean_interval([]), at_least=0) == "inconclusive"
    assert outcome(mean_interval([0.5]), at_least=0) == "inconclusive"
    assert overall([]) == "inconclusive"
    assert overall(["passed", "inconclusive"]) == "inconclusive"
    assert overall(["passed", "inconclusive", "failed"]) == "failed"
    assert overall(["passed", "passed"]) == "passed"


def test_known_intervals() -> None:
    """Against values from tables."""
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval is not None
    assert interval.high == pytest.approx(3 + 2.776 * math.sqrt(2.5 / 5), abs=1e-3)
    wilson = wilson_interval(8, 10)
    assert wilson is not None
    assert (wilson.low, wilson.high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert student(3) == 3.182
    assert student(1000) == pytest.approx(1.98)


def test_pairing_takes_out_what_both_share() -> None:
    """Items of very different difficulty, one point of difference on each: the interval is that point."""
    theirs = [random.Random(seed).random() for seed in range(100)]
    interval = paired_interval([value - 0.01 for value in theirs], theirs)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((-0.01, -0.01))


def test_intervals_cover_what_they_should() -> None:
    """In about 95 of 100 samples the ratio of means lies in its interval."""
    covered = 0
    for seed in range(400):
        rng = random.Random(seed)
        below = [rng.gauss(20, 4) for _ in range(60)]
        interval = ratio_interval([0.5 * value + rng.gauss(0, 2) for value in below], below)
        assert interval is not None
        covered += interval.low <= 0.5 <= interval.high
    assert 366 <= covered <= 392


def test_too_short_and_too_long_both_fail() -> None:
    """Length is held to a ratio and to its inverse."""
    base = [20, 22, 18, 21, 19, 20]
    assert checks.length([8, 9, 8, 8, 9, 8], base, 1.5).outcome == "failed"
    assert checks.length([40, 41, 39, 44, 38, 40], base, 1.5).outcome == "failed"
    assert checks.length(base, base, 1.5).outcome == "passed"


def test_more_blocked_answers_fail_the_safety_check() -> None:
    """Against the active adapter on the same prompts; fewer is fine."""
    rarely, often = [False] * 100, [False, True] * 50
    assert checks.safety(often, rarely, 0.02).outcome == "failed"
    assert checks.safety(rarely, often, 0.02).outcome == "passed"


def test_few_pairs_never_decide() -> None:
    """Below the minimum the preference check is inconclusive, whatever the pairs say."""
    gate = GateConfig(min_preference_pairs=20)
    for margins, expected in (
        ([-1.5] * 19, "inconclusive"),
        ([-1.5] * 20, "failed"),
        ([1.0] * 20, "passed"),
        ([], "inconclusive"),
    ):
        assert [check.outcome for check in checks.preference(margins, gate)] == [expected] * 2


def test_the_preference_margin_sees_what_the_accuracy_does_not() -> None:
    """Right a little more often than not, and badly wrong where it is wrong."""
    accuracy, mean = checks.preference([0.1] * 70 + [-9.0, -10.0, -11.0] * 10, GateConfig())
    assert (accuracy.outcome, mean.outcome) == ("passed", "failed")
    assert mean.high is not None and mean.at_least is not None and mean.high < mean.at_least


# --- reward -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("win", "tie"), [(0.5, 0.0), (0.35, 0.3), (0.05, 0.9), (0.7, 0.2), (0.02, 0.97)])
@pytest.mark.parametrize("count", [20, 60])
def test_the_win_rates_interval_covers_the_truth(win: float, tie: float, count: int) -> None:
    """In 95 of 100 repetitions, about; also where few pairs differ."""
    rng = random.Random(7)
    truth, covered = win + tie / 2, 0
    for _ in range(400):
        drawn = [rng.random() for _ in range(count)]
        wins = sum(one < win for one in drawn)
        losses = sum(one >= win + tie for one in drawn)
        interval = win_rate_interval(wins, losses, count)
        assert interval is not None and 0 <= interval.low <= interval.value <= interval.high <= 1
        covered += interval.low <= truth <= interval.high
    assert covered / 400 > 0.92


def test_win_rates_agree_with_the_large_sample_interval_and_with_their_mirror() -> None:
    """150 wins and 86 losses of 1,600: Wald's 0.04 ± 0.0187 of the difference; and better is the mirror of worse."""
    interval = win_rate_interval(150, 86, 1600)
    mirror = win_rate_interval(86, 150, 1600)
    assert interval is not None and mirror is not None
    assert interval.value == pytest.approx(0.52)
    assert (interval.low, interval.high) == pytest.approx((0.5 + 0.0213 / 2, 0.5 + 0.0587 / 2), abs=1e-3)
    assert (mirror.low, mirror.high) == pytest.approx((1 - interval.high, 1 - interval.low))
    assert win_rate_interval(0, 0, 0) is None


def test_worse_on_most_prompts_fails_and_the_same_passes() -> None:
    """Ties count half; a few pairs prove nothing; pairs without totals are named."""
    better, worse = [1.0] * 60, [0.0] * 60
    assert checks.reward(better, worse, 0.1).outcome == "passed"
    assert checks.reward(worse, better, 0.1).outcome == "failed"
    assert checks.reward(better, better, 0.1).outcome == "passed"
    assert checks.reward([0.0] * 3, [1.0] * 3, 0.1).outcome == "inconclusive"
    gaps = checks.reward([None, 1.0], [0.0, 0.0], 0.1)
    assert (gaps.count, gaps.detail) == (1, "better 1, worse 0, equal 0; 1 pairs could not be scored")


def test_what_was_skipped_counts_neither_way() -> None:
    """Nothing but skipped checks proves nothing."""
    assert overall(["passed", "skipped"]) == "passed"
    assert overall(["skipped", "failed"]) == "failed"
    assert overall(["skipped"]) == "inconclusive"


def test_far_from_base_fails() -> None:
    """The KL estimate is held to its limit."""
    assert checks.kl([2.0, 2.1, 1.9], 1.0).outcome == "failed"
    assert checks.kl([0.1, 0.2, 0.15], 1.0).outcome == "passed"

"""Figures of a scorer on known pairs, by hand and against brute force."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.evaluation import accuracy, agreement, auc, calibration_error, wilson

MARGINS = st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=40)


def test_accuracy_counts_a_tie_as_half() -> None:
    """Neither right nor wrong."""
    assert accuracy([1.0, 0.0, -1.0, 2.0]) == 0.625


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0.5, 100, 0.4038, 0.5962), (1.0, 10, 0.7225, 1.0), (0.0, 10, 0.0, 0.2775)]
)
def test_wilson(share: float, count: int, low: float, high: float) -> None:
    """Published values; never outside 0 to 1, and honest where all are right."""
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)


@given(MARGINS)
def test_auc_is_the_chance_that_a_right_decision_is_surer(margins: list[float]) -> None:
    """Counted over all couples of a right and a wrong decision."""
    right, wrong = [m for m in margins if m > 0], [-m for m in margins if m < 0]
    couples = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(right, wrong)]
    assert auc(margins) == (pytest.approx(sum(couples) / len(couples)) if couples else None)


def test_calibration_error_by_hand() -> None:
    """Nothing where the sigmoid says how often it is right; all of the gap where not."""
    margin = math.log(3)  # σ = .75
    assert calibration_error([margin] * 3 + [-margin]) == pytest.approx(0.0)
    assert calibration_error([margin, -margin]) == pytest.approx(0.25)
    assert calibration_error([1e9, -1e9]) == pytest.approx(0.5)
    assert calibration_error([0.0]) == pytest.approx(0.0)


def test_agreement_is_over_pairs_that_both_decide() -> None:
    """Ties and failures say nothing."""
    assert agreement([1.0, -1.0, 0.0, None, 2.0], [3.0, 1.0, 1.0, 1.0, 0.5]) == (3, pytest.approx(2 / 3))
    assert agreement([0.0], [1.0]) == (0, None)

"""When the server may move by itself: every bound, to the second."""

from __future__ import annotations

from typing import Any

import pytest

from server.adapters.restraint import HARM_SHOWN, before_canary, before_promotion, horizon_s
from server.config import RolloutConfig
from server.wire.operate import AuditEntry


def settings(**changes: Any) -> RolloutConfig:
    return RolloutConfig(**{"cooldown_s": 100, "min_canary_s": 10, "max_moves_per_hour": 2, **changes})


def moves(*ats: float, reason: str = "gate passed") -> list[AuditEntry]:
    return [
        AuditEntry(id=1, at=at, actor="rollout", action="canary", subject="a1", detail={"reason": reason})
        for at in sorted(ats, reverse=True)
    ]


@pytest.mark.parametrize(
    ("now", "until"), [(1000.0, 1100.0), (1099.0, 1100.0), (1100.0, None), (5000.0, None), (900.0, 1100.0)]
)
def test_after_harm_no_canary_starts_until_the_cool_down_is_over(now: float, until: float | None) -> None:
    """Also where the clock was set back."""
    wait = before_canary(settings(), moves(1000.0, reason=HARM_SHOWN), now)
    assert (wait.until if wait is not None else None) == until


def test_other_ends_need_no_cool_down() -> None:
    """Only harm does."""
    assert before_canary(settings(), moves(1000.0, reason="stale parent"), 1001.0) is None


@pytest.mark.parametrize(
    ("ats", "until"),
    [((), None), ((900.0,), None), ((900.0, 950.0), 4500.0), ((800.0, 900.0, 950.0), 4500.0), ((-3000.0, 950.0), None)],
)
def test_only_so_many_moves_an_hour(ats: tuple[float, ...], until: float | None) -> None:
    """Until the oldest that fills the hour is an hour ago."""
    for wait in (
        before_canary(settings(), moves(*ats), 1000.0),
        before_promotion(settings(), 0.0, moves(*ats), 1000.0),
    ):
        assert (wait.until if wait is not None else None) == until


def test_a_canary_runs_for_a_while() -> None:
    """However good it looks."""
    wait = before_promotion(settings(), 995.0, [], 1000.0)
    assert wait is not None and wait.until == 1005.0
    assert before_promotion(settings(), 990.0, [], 1000.0) is None


def test_the_past_is_read_as_far_as_it_matters() -> None:
    """An hour for the moves, longer for a longer cool-down."""
    assert horizon_s(settings()) == 3600
    assert horizon_s(settings(cooldown_s=9000)) == 9000

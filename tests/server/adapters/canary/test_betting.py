"""Evidence that may be looked at whenever."""

from __future__ import annotations

import random

import pytest

from server.adapters.canary.betting import MOST, Bets, Shares


@pytest.mark.parametrize("chance", [0.5, 0.05])
def test_luck_rarely_looks_like_a_difference(chance: float) -> None:
    """Looked at after each of 400 differences of mean zero, evidence of 100 shows up in at most 1% of the runs."""
    rng = random.Random(7)
    shown = 0
    for _ in range(500):
        bets = Bets(1.0)
        for _ in range(400):
            bets.bet((rng.random() < chance) - (rng.random() < chance))
        shown += bets.highest >= 100
    assert shown <= 10


def test_events_at_the_canarys_share_are_no_evidence() -> None:
    """Where a fifth of the users gets a fifth of the failures, 100 shows up in at most 1% of the runs."""
    rng = random.Random(7)
    shown = 0
    for _ in range(500):
        shares = Shares(0.2)
        for _ in range(500):
            shares.bet(rng.random() < 0.2)
        shown += shares.highest >= 100
    assert shown <= 10


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_bets_on_events_are_fair(share: float) -> None:
    """With no difference, the expected evidence after an event is 1."""
    canary, active = Shares(share), Shares(share)
    canary.bet(True)
    active.bet(False)
    after = share * canary.value + (1 - share) * active.value
    assert after == pytest.approx(1.0)


def test_what_was_shown_stays_shown() -> None:
    """Later luck the other way takes nothing back, and evidence without end stays a number."""
    bets = Bets(1.0)
    for _ in range(5000):
        bets.bet(1.0)
    shown = bets.highest
    for _ in range(100):
        bets.bet(-1.0)
    assert bets.highest == shown <= MOST


def test_no_bet_costs_everything() -> None:
    """However heavy a block, and however bad its outcome, the capital stays above zero."""
    bets = Bets(0.5)
    bets.bet(-0.5, weight=100.0)
    assert bets.value > 0

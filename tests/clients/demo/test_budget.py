"""Portions of signals: never more than the budget, and none while a round is on."""

from __future__ import annotations

from clients.demo.budget import Budget


def test_nobody_rates_before_the_first_portion() -> None:
    """Users chat, but no signal is taken."""
    assert not Budget(400, 70).take()


def test_a_portion_closes_with_the_signal_that_completes_a_round() -> None:
    """Ties and held-out prompts cost a signal and do not complete anything."""
    budget = Budget(total=100, round_size=2)
    budget.release()
    for is_useful in (False, True, False, True):
        assert budget.take()
        budget.settle(is_useful=is_useful)
    assert not budget.take()
    assert (budget.taken, budget.left) == (4, 96)


def test_the_total_holds_with_signals_on_their_way() -> None:
    """What was reserved counts before it is sent."""
    budget = Budget(total=3, round_size=2)
    budget.release()
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


def test_later_portions_start_afresh() -> None:
    """Useful signals of an earlier portion do not start a later round."""
    budget = Budget(total=10, round_size=1)
    budget.release()
    budget.take()
    budget.settle(is_useful=True)
    assert not budget.is_open and budget.can_release
    budget.release()
    assert budget.is_open and budget.useful == 0


def test_a_rest_too_small_for_a_round_is_not_spent() -> None:
    """It could only be thrown away."""
    budget = Budget(total=10, round_size=8)
    budget.release()
    for _ in range(8):
        budget.take()
        budget.settle(is_useful=True)
    assert not budget.can_release


def test_a_portion_ends_when_the_budget_does() -> None:
    """Nothing but ties: the budget runs out, the round never comes, nobody waits for more."""
    budget = Budget(total=3, round_size=2)
    budget.release()
    while budget.take():
        budget.settle(is_useful=False)
    assert (budget.is_open, budget.can_release) == (False, False)

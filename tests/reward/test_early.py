"""Early rejection gives up the weaker part, never all."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from reward.selection.early import survivors
from reward.types import Judgement
from tests.reward.judged import judged

POOL = st.lists(st.builds(judged, st.none() | st.floats(-9, 9), blocked=st.booleans()), min_size=1, max_size=12)


def test_the_better_half_goes_on() -> None:
    """By total, in their order; an odd one stays."""
    assert survivors([judged(total) for total in (1.0, 4.0, 2.0, 3.0, 0.0)], share=0.5) == (1, 2, 3)


def test_what_is_blocked_goes_first() -> None:
    """However well it scores; and also where there would be room for it."""
    pool = [judged(9.0, blocked=True), judged(1.0), judged(0.0), judged(8.0, blocked=True)]
    assert survivors(pool, share=0.5) == (1, 2)
    assert survivors(pool, share=1.0) == (1, 2)


def test_without_a_scorer_nothing_but_the_blocked_is_given_up() -> None:
    """Taste fails open: no guess takes an answer away."""
    assert survivors([judged(None), judged(None, blocked=True), judged(None)], share=0.5) == (0, 2)


def test_as_many_stay_as_are_to_be_shown() -> None:
    """A request for three choices keeps three."""
    assert survivors([judged(float(total)) for total in range(6)], share=0.1, at_least=3) == (3, 4, 5)


@given(pool=POOL, share=st.floats(0, 1), at_least=st.integers(0, 4))
def test_never_all_and_never_a_better_one(pool: list[Judgement], share: float, at_least: int) -> None:
    """One at least goes on; a clean one where there is one; no clean one that is given up has a higher total."""
    kept = survivors(pool, share=share, at_least=at_least)
    assert kept and list(kept) == sorted(set(kept))
    clean = [position for position, one in enumerate(pool) if one.is_feasible]
    if clean:
        assert set(kept) <= set(clean)
    given_up = [pool[position].total for position in clean if position not in kept]
    worst = min((-math.inf if pool[one].total is None else pool[one].total) for one in kept)  # type: ignore[type-var]
    assert all(total is None or worst is None or total <= worst for total in given_up)

"""Canary and active, matched in time."""

from __future__ import annotations

import pytest

from server.adapters.canary.matching import MOST_WAITING, Block, Matching
from server.adapters.canary.metrics import difference


def test_a_block_holds_each_contribution_once() -> None:
    """At a share of .2: one canary contribution against the four that came with it; then a new block."""
    matching = Matching(difference, 0.2)
    assert matching.add(1.0, True) is None
    assert [matching.add(value, False) for value in (0.0, 1.0, 0.0)] == [None, None, None]
    assert matching.add(1.0, False) == Block(0.5, 1.0)
    assert matching.add(0.0, False) is None
    assert matching.worse == 0.5


def test_a_fuller_block_weighs_more() -> None:
    """Two canary contributions and eight active ones weigh twice as much as one and four."""
    matching = Matching(difference, 0.2)
    for _ in range(8):
        matching.add(0.0, False)
    first = matching.add(0.0, True)
    assert first is not None
    assert first.weight == pytest.approx((1 + 1 / 4) / (1 + 1 / 8))
    for _ in range(3):
        matching.add(0.0, False)
    matching.add(1.0, True)
    second = matching.add(0.0, False)
    assert second == Block(1.0, 1.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_a_counterpart_nothing_is_compared(share: float) -> None:
    """Nobody to compare with: no block, and no memory without end."""
    matching = Matching(difference, share)
    assert all(matching.add(1.0, True) is None for _ in range(10 * MOST_WAITING))
    assert matching.worse is None
    block = matching.add(0.0, False)
    assert block is not None
    assert block.worse == 1.0


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_an_extreme_share_still_closes_blocks(share: float) -> None:
    """One against fifty is enough, either way around."""
    matching = Matching(difference, share)
    large = share > 0.5
    matching.add(0.0, not large)
    assert [matching.add(0.0, large) is not None for _ in range(50)].count(True) == 1

"""The transition table."""

from __future__ import annotations

import pytest

from server.adapters.states import SERVABLE, TRANSITIONS, Mover, can_move, require_move, sources_of
from server.errors import BadRequest
from server.store.records import AdapterState as S

TABLE = """
staged       verified     server
verified     gated        server
staged       rejected     server operator
verified     rejected     server operator
gated        rejected     server operator
gated        canary       server operator
gated        active       operator
rejected     canary       operator
canary       active       server operator
canary       rolled_back  server operator
active       rolled_back  server operator
active       retired      server operator
retired      active       server operator
rolled_back  active       operator
"""
"""The design's table with its two deviations, in full but for quarantine, which an operator may reach from anywhere."""


def test_the_whole_table() -> None:
    """What is listed can happen, by whom it says; nothing else can."""
    listed = {(before, after): set(movers) for before, after, *movers in map(str.split, TABLE.strip().splitlines())}
    for before in S:
        for after in S:
            expected = listed.get((before.value, after.value), set())
            if after is S.QUARANTINED and before is not after:
                expected = {"operator"}
            assert {mover.value for mover in Mover if can_move(before, after, mover)} == expected, (before, after)


def test_the_way_up_is_walked_step_by_step() -> None:
    """Nobody skips the probe or the gate; only an operator promotes without a canary."""
    for before in (S.STAGED, S.VERIFIED):
        for after in (S.CANARY, S.ACTIVE):
            assert not any(can_move(before, after, mover) for mover in Mover)
    assert can_move(S.GATED, S.ACTIVE, Mover.OPERATOR)
    assert not can_move(S.GATED, S.ACTIVE, Mover.SERVER)


def test_quarantine_is_final_and_open_to_every_state() -> None:
    """An operator can quarantine anything; nothing comes back from there."""
    assert sources_of(S.QUARANTINED, Mover.OPERATOR) == frozenset(S) - {S.QUARANTINED}
    assert not sources_of(S.QUARANTINED, Mover.SERVER)
    assert not any(before is S.QUARANTINED for before, _ in TRANSITIONS)


def test_only_an_operator_brings_back_what_was_rejected() -> None:
    """A rejected adapter reaches canary by an operator's hand alone."""
    assert can_move(S.REJECTED, S.CANARY, Mover.OPERATOR)
    assert not can_move(S.REJECTED, S.CANARY, Mover.SERVER)
    with pytest.raises(BadRequest) as caught:
        require_move(S.REJECTED, S.ACTIVE, Mover.OPERATOR)
    assert caught.value.code == "illegal_move"


def test_ephemeral_adapters_never_enter_routing() -> None:
    """A training adapter can only be deleted or quarantined."""
    assert {after for before, after in TRANSITIONS if before is S.EPHEMERAL} == {S.QUARANTINED}


def test_what_is_unverified_or_gone_is_not_servable() -> None:
    """By id, operators and the learner reach only what was verified and not taken back."""
    assert SERVABLE.isdisjoint({S.STAGED, S.REJECTED, S.ROLLED_BACK, S.RETIRED, S.QUARANTINED})

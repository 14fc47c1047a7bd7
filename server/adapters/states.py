"""Which state of an adapter may follow which, and who may say so. Pure.

Deviations from the table in the design, each because something else would be stuck:

1. `gated` → `rejected`: a newer gated adapter supersedes one that waits, a stale parent ends one, an operator
   declines one;
2. `gated` → `active` is the operator's alone: the server's own way leads through a canary.
"""

from __future__ import annotations

from enum import StrEnum

from server.errors import BadRequest
from server.store.records import AdapterState as S


class Mover(StrEnum):
    SERVER = "server"
    OPERATOR = "operator"


_BOTH = frozenset({Mover.SERVER, Mover.OPERATOR})
_SERVER = frozenset({Mover.SERVER})
_OPERATOR = frozenset({Mover.OPERATOR})

TRANSITIONS: dict[tuple[S, S], frozenset[Mover]] = {
    (S.STAGED, S.VERIFIED): _SERVER,
    (S.VERIFIED, S.GATED): _SERVER,
    (S.STAGED, S.REJECTED): _BOTH,
    (S.VERIFIED, S.REJECTED): _BOTH,
    (S.GATED, S.REJECTED): _BOTH,
    (S.GATED, S.CANARY): _BOTH,
    (S.GATED, S.ACTIVE): _OPERATOR,
    (S.REJECTED, S.CANARY): _OPERATOR,
    (S.CANARY, S.ACTIVE): _BOTH,
    (S.CANARY, S.ROLLED_BACK): _BOTH,
    (S.ACTIVE, S.ROLLED_BACK): _BOTH,
    (S.ACTIVE, S.RETIRED): _BOTH,
    (S.RETIRED, S.ACTIVE): _BOTH,
    (S.ROLLED_BACK, S.ACTIVE): _OPERATOR,
    **{(state, S.QUARANTINED): _OPERATOR for state in S if state is not S.QUARANTINED},
}
"""(from, to) → who may. What is not listed cannot happen."""

SERVABLE = frozenset({S.VERIFIED, S.GATED, S.CANARY, S.ACTIVE, S.EPHEMERAL})
"""States in which operators and the learner may ask for an adapter by its id. Apps never may."""

SHADOWABLE = frozenset({S.VERIFIED, S.GATED, S.CANARY})
"""States in which an adapter may be a shadow: probed, and not served to everybody already."""


def can_move(before: S, after: S, mover: Mover) -> bool:
    return mover in TRANSITIONS.get((before, after), frozenset())


def require_move(before: S, after: S, mover: Mover) -> None:
    """Raises `BadRequest` (`illegal_move`) unless the table allows it."""
    if not can_move(before, after, mover):
        raise BadRequest(f"An adapter that is {before.value} cannot become {after.value}.", code="illegal_move")


def sources_of(after: S, mover: Mover) -> frozenset[S]:
    """The states from which the mover may bring an adapter there."""
    return frozenset(before for (before, to), movers in TRANSITIONS.items() if to is after and mover in movers)

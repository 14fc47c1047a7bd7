"""What a move does: the routing row that follows, and the states that change with it. Pure.

Decisions that the design leaves open:

1. **At most one canary.** While one runs, another adapter can be neither its rival nor promoted past it: end it first.
2. **A canary's evidence holds against one active adapter.** So every move that replaces the active one other than by
   that canary itself (rollback, undo, quarantine of the active) ends the canary as `rolled_back`.
3. **Rollback** takes the active adapter out (`rolled_back`) and brings back the first of `fallbacks` that is intact.
   `previous` becomes the next of them, so a second rollback goes further back and never returns to what was just
   taken out. With base active there is only a canary to end; without one there is nothing to roll back.
4. **Undo** brings back the adapter that the last rollback took out, as long as what that rollback put in place still
   is active. It does not bring back a canary: its sample was interrupted.
5. **Quarantine** of what is routed routes away first, as rollback does, in the same move.
6. Ending a canary alone is the operator's `reject` of it.
7. **Forgetting** takes several adapters out at once, routed or not: see `server.adapters.forgetting`. A canary that
   is none of them goes on, unless the active one is replaced (2).
8. **At most one shadow**, beside whatever else runs. Setting it changes no state, and a canary's evidence goes on.
   Whatever takes the adapter to a state in which it may not be a shadow ends it in the same move.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from server.adapters.states import SHADOWABLE
from server.errors import BadRequest
from server.store.records import AdapterRecord, AdapterState, Routing
from server.wire.base import BASE


@dataclass(frozen=True, slots=True)
class Plan:
    """The row after the move (generation and time are set where it is written), and (adapter, state) changes."""

    routing: Routing
    states: tuple[tuple[str, AdapterState], ...]
    note: dict[str, Any] = field(default_factory=dict)
    """What the audit trail says beside them."""


def fallbacks(routing: Routing, retired: Sequence[AdapterRecord], *, without: str) -> list[str]:
    """Where a rollback may go, best first: `previous`, then what retired last; base ends the list."""
    newest_first = [one.id for one in sorted(retired, key=lambda one: one.updated_at, reverse=True)]
    if routing.previous == BASE:
        return [BASE]
    order = [one for one in newest_first if one == routing.previous] + newest_first
    return [*(one for one in dict.fromkeys(order) if one != without), BASE]


def start_canary(routing: Routing, adapter: str, share: float) -> Plan:
    if routing.canary == adapter:  # only its share changes
        return _plan(replace(routing, canary_share=share))
    _require_no_canary(routing)
    return _plan(replace(routing, canary=adapter, canary_share=share), (adapter, AdapterState.CANARY))


def promote(routing: Routing, adapter: str) -> Plan:
    if routing.active == adapter:  # it would become its own way back
        raise BadRequest(f"{adapter} is active already.", code="illegal_move")
    if routing.canary != adapter:
        _require_no_canary(routing)
    after = replace(routing, active=adapter, previous=routing.active, canary=None, canary_share=0.0)
    return _plan(after, *_change(routing.active, AdapterState.RETIRED), (adapter, AdapterState.ACTIVE))


def end_canary(routing: Routing) -> Plan:
    if routing.canary is None:
        raise BadRequest("There is no canary.", code="illegal_move")
    after = replace(routing, canary=None, canary_share=0.0)
    return _plan(after, (routing.canary, AdapterState.ROLLED_BACK))


def set_shadow(routing: Routing, adapter: str, share: float) -> Plan:
    """Let the adapter answer a share of the requests unseen; 0 ends it."""
    if share > 0 and routing.shadow not in (None, adapter):
        raise BadRequest(f"{routing.shadow} is the shadow; end it first, with share 0.", code="shadow_running")
    if share == 0 and routing.shadow != adapter:
        raise BadRequest(f"{adapter} is not the shadow.", param="share", code="illegal_move")
    return _plan(replace(routing, shadow=adapter if share else None, shadow_share=share))


def reject_shadow(routing: Routing, adapter: str) -> Plan:
    """Decline an adapter that routing names as its shadow alone."""
    return _plan(routing, (adapter, AdapterState.REJECTED))


def roll_back(routing: Routing, targets: Sequence[str]) -> Plan:
    """`targets`: the intact ones of `fallbacks`, base always among them."""
    if routing.active == BASE:
        if routing.canary is None:
            raise BadRequest("Base is active and there is no canary: nothing to roll back.", code="illegal_move")
        return end_canary(routing)
    return _leave_active(routing, targets, AdapterState.ROLLED_BACK)


def undo(routing: Routing, *, replaced: str, target: str) -> Plan:
    """Bring `replaced` back, which a rollback had replaced by `target`."""
    if routing.active != target:
        raise BadRequest("Routing moved since the last rollback: nothing to undo.", code="illegal_move")
    after = replace(routing, active=replaced, previous=target, canary=None, canary_share=0.0)
    states = (*_change(routing.canary, AdapterState.ROLLED_BACK), *_change(target, AdapterState.RETIRED))
    return _plan(after, *states, (replaced, AdapterState.ACTIVE))


def quarantine(routing: Routing, adapter: str, targets: Sequence[str]) -> Plan | None:
    """None where routing does not name the adapter: then only its state changes."""
    if adapter == routing.active:
        return _leave_active(routing, targets, AdapterState.QUARANTINED)
    if adapter == routing.canary:
        after = replace(routing, canary=None, canary_share=0.0)
        return _plan(after, (adapter, AdapterState.QUARANTINED))
    if adapter == routing.previous:
        left = [one for one in targets if one not in (adapter, routing.active)]
        after = replace(routing, previous=left[0] if left else None)
        return _plan(after, (adapter, AdapterState.QUARANTINED))
    if adapter == routing.shadow:
        return _plan(routing, (adapter, AdapterState.QUARANTINED))
    return None


def forget(routing: Routing, out: Collection[str], active: str, targets: Sequence[str]) -> Plan:
    """Take these adapters out for ever; `active` serves afterwards. `targets`: the intact ones of `fallbacks`."""
    states = tuple((one, AdapterState.QUARANTINED) for one in out)
    canary = routing.canary
    if active != routing.active:
        states += (*(() if canary in out else _change(canary, AdapterState.ROLLED_BACK)),)
        states += _change(active, AdapterState.ACTIVE)
        canary = None
    elif canary in out:
        canary = None
    previous = routing.previous
    if active != routing.active or previous in out:
        left = [one for one in targets if one not in out and one != active]
        previous = left[0] if left and active != BASE else None
    share = routing.canary_share if canary is not None else 0.0
    return _plan(replace(routing, active=active, previous=previous, canary=canary, canary_share=share), *states)


def _leave_active(routing: Routing, targets: Sequence[str], state: AdapterState) -> Plan:
    target, *rest = targets
    after = replace(routing, active=target, previous=rest[0] if rest else None, canary=None, canary_share=0.0)
    canary = _change(routing.canary, AdapterState.ROLLED_BACK)
    return _plan(after, *canary, (routing.active, state), *_change(target, AdapterState.ACTIVE))


def _plan(after: Routing, *states: tuple[str, AdapterState]) -> Plan:
    if any(adapter == after.shadow and state not in SHADOWABLE for adapter, state in states):
        after = replace(after, shadow=None, shadow_share=0.0)
    return Plan(after, states)


def _change(adapter: str | None, state: AdapterState) -> tuple[tuple[str, AdapterState], ...]:
    """Base has no row, so no state."""
    return () if adapter in (None, BASE) else ((adapter, state),)


def _require_no_canary(routing: Routing) -> None:
    if routing.canary is not None:
        raise BadRequest(f"{routing.canary} is the canary; promote or reject it first.", code="canary_running")

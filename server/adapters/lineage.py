"""Which adapter grew out of which. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from server.store.records import AdapterRecord, AdapterState
from server.wire.base import BASE

UNSOUND = frozenset({AdapterState.ROLLED_BACK, AdapterState.QUARANTINED})


def ancestors(adapter_id: str, known: Mapping[str, AdapterRecord]) -> list[str]:
    """Nearest first, "base" last; stops at an adapter that is not known."""
    found: list[str] = []
    current = known.get(adapter_id)
    while current is not None and current.parent not in (*found, adapter_id):
        found.append(current.parent)
        current = known.get(current.parent)
    return found


def descendants(adapter_id: str, known: Mapping[str, AdapterRecord]) -> list[str]:
    """Oldest first."""
    below = {adapter_id}
    found = []
    for record in sorted(known.values(), key=lambda one: one.number):
        if record.parent in below:
            below.add(record.id)
            found.append(record.id)
    return found


def sound_ancestors(adapter_id: str, known: Mapping[str, AdapterRecord]) -> list[AdapterRecord]:
    """Those that were not taken back, nearest first, without base."""
    found = [known[one] for one in ancestors(adapter_id, known) if one in known]
    return [one for one in found if one.state not in UNSOUND]


def unsound_ancestor(adapter_id: str, known: Mapping[str, AdapterRecord]) -> str | None:
    """What makes an adapter stale: a parent that was rolled back, or anything quarantined above it.

    A parent that was merely retired, or a grandparent that was rolled back after a good successor, does not.
    """
    for distance, ancestor in enumerate(ancestors(adapter_id, known)):
        if ancestor == BASE or ancestor not in known:
            continue
        state = known[ancestor].state
        if state is AdapterState.QUARANTINED or (distance == 0 and state in UNSOUND):
            return ancestor
    return None

"""Signals: what people said. The latest of an annotator about the same thing is live, the others are history."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select, update

from server.store import schema
from server.store.records import SignalKind, SignalRecord

_COLUMNS = tuple(field.name for field in dataclasses.fields(SignalRecord))
_INSERT = insert(schema.signals)
_RETIRE = (  # made once, as in `server.store.groups`
    update(schema.signals)
    .where(
        schema.signals.c.group_id == bindparam("of_group"),
        schema.signals.c.annotator == bindparam("of_annotator"),
        schema.signals.c.slot == bindparam("of_slot"),
        schema.signals.c.is_live,
    )
    .values(is_live=False)
)


def insert_signal(connection: Connection, signal: SignalRecord) -> bool:
    """Store a signal; an earlier one of the same annotator in the same slot becomes history. Whether there was one."""
    is_override = retire(connection, signal.group_id, signal.annotator, signal.slot)
    connection.execute(_INSERT, {name: getattr(signal, name) for name in _COLUMNS})
    return is_override


def retire(connection: Connection, group_id: str, annotator: str, slot: str) -> bool:
    """Make the annotator's live signal in this slot history; whether there was one."""
    found = connection.execute(_RETIRE, {"of_group": group_id, "of_annotator": annotator, "of_slot": slot})
    return found.rowcount > 0


def nth_newest_at(connection: Connection, annotator: str, n: int) -> float | None:
    """When the annotator's n-th newest signal came, live or not; None when there are fewer."""
    at = schema.signals.c.created_at
    return connection.execute(
        select(at).where(schema.signals.c.annotator == annotator).order_by(at.desc()).offset(n - 1).limit(1)
    ).scalar()


def live_signals(connection: Connection, group_ids: Sequence[str]) -> dict[str, list[SignalRecord]]:
    """For each group its live signals that are not set aside, oldest first."""
    table = schema.signals
    found: dict[str, list[SignalRecord]] = {group_id: [] for group_id in group_ids}
    for row in connection.execute(
        select(*(table.c[name] for name in _COLUMNS))
        .where(table.c.group_id.in_(list(group_ids)), table.c.is_live, ~table.c.is_quarantined)
        .order_by(table.c.id)
    ).mappings():
        found[row["group_id"]].append(SignalRecord(**{**row, "kind": SignalKind(row["kind"])}))
    return found

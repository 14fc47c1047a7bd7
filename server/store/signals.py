"""Signals: what people said. The latest of an annotator about the same thing is live, the others are history."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update

from server.store import schema
from server.store.records import SignalKind, SignalRecord


def insert_signal(connection: Connection, signal: SignalRecord) -> None:
    """Store a signal; an earlier one of the same annotator in the same slot becomes history."""
    table = schema.signals
    connection.execute(
        update(table)
        .where(
            table.c.group_id == signal.group_id,
            table.c.annotator == signal.annotator,
            table.c.slot == signal.slot,
            table.c.is_live,
        )
        .values(is_live=False)
    )
    connection.execute(insert(table), {column.name: getattr(signal, column.name) for column in table.columns})


def live_signals(connection: Connection, group_ids: Sequence[str]) -> dict[str, list[SignalRecord]]:
    """For each group its live signals that are not set aside, oldest first."""
    table = schema.signals
    found: dict[str, list[SignalRecord]] = {group_id: [] for group_id in group_ids}
    for row in connection.execute(
        select(table)
        .where(table.c.group_id.in_(list(group_ids)), table.c.is_live, ~table.c.is_quarantined)
        .order_by(table.c.id)
    ).mappings():
        found[row["group_id"]].append(SignalRecord(**{**row, "kind": SignalKind(row["kind"])}))
    return found

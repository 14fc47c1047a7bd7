"""Signals set aside: kept, and not learned from until they are taken back in. The feed tells of every change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, select, update

from server.store import feed, schema
from server.store.dialect import in_parts
from server.store.records import AdapterRecord, FeedKind

CLOCK_SLACK_S: Final = 3600.0
"""How much earlier than the adapter itself one of its answers may seem to be."""


def of_signals(connection: Connection, signal_ids: Sequence[str], *, aside: bool, now: float) -> int:
    """Set these signals aside, or take them back in; how many changed."""
    parts = in_parts(signal_ids)
    return sum(_set(connection, schema.signals.c.id.in_(part), aside=aside, now=now) for part in parts)


def of_annotator(connection: Connection, annotator: str, *, aside: bool, now: float) -> int:
    """The same for all that one annotator has said so far."""
    return _set(connection, schema.signals.c.annotator == annotator, aside=aside, now=now)


def of_adapter(connection: Connection, adapter: AdapterRecord, *, aside: bool, now: float) -> int:
    """The same for all that was said so far about answers of one adapter."""
    groups = schema.groups
    answered = select(groups.c.id).where(
        groups.c.alias == adapter.alias,
        groups.c.created_at >= adapter.created_at - CLOCK_SLACK_S,
        groups.c.adapter == adapter.id,
    )
    return _set(connection, schema.signals.c.group_id.in_(answered), aside=aside, now=now)


def _set(connection: Connection, which: ColumnElement[bool], *, aside: bool, now: float) -> int:
    table = schema.signals
    changed = list(
        connection.execute(
            update(table)
            .where(which, table.c.is_quarantined != aside)
            .values(is_quarantined=aside)
            .returning(table.c.group_id)
        ).scalars()
    )
    feed.tell_again(connection, list(dict.fromkeys(changed)), FeedKind.QUARANTINE, now)
    return len(changed)

"""Signals set aside: kept, and not learned from until they are taken back in. The feed tells of every change."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, case, select, update

from server.store import feed, schema
from server.store.dialect import in_parts
from server.store.records import AdapterRecord, FeedKind


def of_signals(connection: Connection, signal_ids: Sequence[str], *, aside: bool, now: float) -> int:
    """Set these signals aside, or take them back in; how many changed."""
    parts = in_parts(signal_ids)
    return sum(_set(connection, schema.signals.c.id.in_(part), aside=aside, now=now) for part in parts)


def of_annotator(connection: Connection, annotator: str, *, aside: bool, now: float) -> int:
    """The same for all that one annotator has said so far."""
    return _set(connection, schema.signals.c.annotator == annotator, aside=aside, now=now)


def behind_adapter(
    connection: Connection, adapter: AdapterRecord, sound: Sequence[AdapterRecord], *, aside: bool, now: float
) -> int:
    """The same for the signals behind an adapter: those it learned from, and none of its `sound` ancestors did.

    A round trains on everything that the learner holds, so most of an adapter's sources are its parent's too. A signal
    was learned when its group and its annotator are among an adapter's sources and it was there before the adapter; of
    a sound ancestor only what was there when its round began is certain. Adapters without sources have nothing behind
    them that anybody could tell.
    """
    signals, sources = schema.signals, schema.adapter_sources
    mine = select(sources.c.source).where(sources.c.adapter == adapter.id).scalar_subquery()
    which = and_(
        signals.c.created_at <= adapter.created_at, signals.c.group_id.in_(mine), signals.c.annotator.in_(mine)
    )
    began = {one.id: _round_began(connection, one) for one in sound}
    if began:
        group, speaker = sources.alias(), sources.alias()
        learned = select(group.c.adapter).where(
            group.c.source == signals.c.group_id,
            group.c.adapter.in_(list(began)),
            speaker.c.adapter == group.c.adapter,
            speaker.c.source == signals.c.annotator,
            signals.c.created_at <= case(began, value=group.c.adapter),
        )
        which = and_(which, ~learned.exists())
    return _set(connection, which, aside=aside, now=now)


def _round_began(connection: Connection, adapter: AdapterRecord) -> float:
    """When the newest entry of the feed came that the adapter's round was planned with."""
    table, upto = schema.feed, adapter.manifest.get("feed_upto") or 0
    query = select(table.c.created_at).where(table.c.alias == adapter.alias, table.c.seq == upto)
    at: float | None = connection.execute(query).scalar()
    return adapter.created_at if at is None else at


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

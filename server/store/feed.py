"""The append-only change log: which groups changed, in commit order. Learners follow it."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select

from server.store import groups, schema
from server.store.records import FeedKind, FeedRecord


def append(connection: Connection, alias: str, group_id: str, kind: FeedKind, now: float) -> int:
    """Tell of a change of the group, at its next revision; the entry's seq."""
    revision = groups.touch(connection, group_id)
    seq: int = connection.execute(
        insert(schema.feed)
        .values(alias=alias, group_id=group_id, revision=revision, kind=kind, created_at=now)
        .returning(schema.feed.c.seq)
    ).scalar_one()
    return seq


def read_after(connection: Connection, alias: str, after: int, limit: int) -> list[FeedRecord]:
    """The next entries of an alias, in order."""
    table = schema.feed
    rows = connection.execute(
        select(table.c.seq, table.c.alias, table.c.group_id, table.c.revision, table.c.kind)
        .where(table.c.alias == alias, table.c.seq > after)
        .order_by(table.c.seq)
        .limit(limit)
    ).mappings()
    return [FeedRecord(**{**row, "kind": FeedKind(row["kind"])}) for row in rows]


def head(connection: Connection, alias: str) -> int:
    """Seq of the newest entry of an alias; 0 when there is none."""
    table = schema.feed
    return connection.execute(select(func.max(table.c.seq)).where(table.c.alias == alias)).scalar() or 0

"""The append-only change log of each alias: which groups changed, in commit order. Learners follow it.

An alias's entries are numbered 1, 2, 3 …: the counter's row is written in the entry's own transaction, and writing
transactions are one after the other, so no number is skipped, used twice, or seen before a smaller one.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from server.store import groups, schema
from server.store.dialect import upsert
from server.store.records import FeedKind, FeedRecord


def append(connection: Connection, alias: str, group_id: str, kind: FeedKind, now: float) -> int:
    """Tell of a change of the group, at its next revision; the entry's seq."""
    revision = groups.touch(connection, group_id)
    heads = schema.feed_heads
    seq: int = connection.execute(
        upsert(connection, heads)
        .values(alias=alias, seq=1)
        .on_conflict_do_update(index_elements=["alias"], set_={"seq": heads.c.seq + 1})
        .returning(heads.c.seq)
    ).scalar_one()
    connection.execute(
        insert(schema.feed).values(
            alias=alias, seq=seq, group_id=group_id, revision=revision, kind=kind, created_at=now
        )
    )
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
    table = schema.feed_heads
    return connection.execute(select(table.c.seq).where(table.c.alias == alias)).scalar() or 0

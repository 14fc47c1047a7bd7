"""The append-only change log of each alias: which groups changed, in commit order. Learners follow it.

An alias's entries are numbered 1, 2, 3 …: the counter's row is written in the entry's own transaction, and writing
transactions are one after the other, so no number is skipped, used twice, or seen before a smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select, update

from server.store import groups, schema
from server.store.dialect import in_parts
from server.store.records import FeedKind, FeedRecord

_COUNT = (  # made once, as in `server.store.groups`
    update(schema.feed_heads)
    .where(schema.feed_heads.c.alias == bindparam("of"))
    .values(seq=schema.feed_heads.c.seq + bindparam("more"))
    .returning(schema.feed_heads.c.seq)
)


def append(connection: Connection, alias: str, group_id: str, kind: FeedKind, now: float) -> int:
    """Tell of a change of the group, at its next revision; the entry's seq."""
    return append_all(connection, alias, [group_id], kind, now)


def append_all(connection: Connection, alias: str, group_ids: Sequence[str], kind: FeedKind, now: float) -> int:
    """Tell of a change of each of these groups of the alias, in this order; the last entry's seq."""
    revisions = groups.touch(connection, group_ids)
    last: int | None = connection.execute(_COUNT, {"of": alias, "more": len(group_ids)}).scalar()
    if last is None:
        last = len(group_ids)
        connection.execute(insert(schema.feed_heads).values(alias=alias, seq=last))
    connection.execute(
        insert(schema.feed),
        [
            {"alias": alias, "seq": seq, "group_id": one, "revision": revisions[one], "kind": kind, "created_at": now}
            for seq, one in enumerate(group_ids, last - len(group_ids) + 1)
        ],
    )
    return last


def tell_again(connection: Connection, group_ids: Sequence[str], kind: FeedKind, now: float) -> frozenset[str]:
    """Tell of a change of those groups of which the feed has told before; the aliases that they belong to."""
    table = schema.groups
    told: dict[str, list[str]] = {}
    for part in in_parts(group_ids):
        query = select(table.c.id, table.c.alias).where(table.c.id.in_(part), table.c.revision > 0)
        for row in connection.execute(query.order_by(table.c.id)):
            told.setdefault(row.alias, []).append(row.id)
    for alias, ids in told.items():
        for part in in_parts(ids):
            append_all(connection, alias, part, kind, now)
    return frozenset(told)


def was_told(connection: Connection, alias: str, group_ids: Sequence[str], kind: FeedKind, after: int) -> bool:
    """Whether an entry of this kind behind `after` names one of the groups."""
    table = schema.feed
    told = select(table.c.group_id).where(table.c.alias == alias, table.c.seq > after, table.c.kind == kind)
    return not set(group_ids).isdisjoint(connection.execute(told).scalars())


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


def first_after(connection: Connection, alias: str, after: int) -> float | None:
    """When the next entry was made (UTC seconds); None when there is none."""
    table = schema.feed
    following = select(table.c.created_at).where(table.c.alias == alias, table.c.seq > after)
    found: float | None = connection.execute(following.order_by(table.c.seq).limit(1)).scalar()
    return found


def head(connection: Connection, alias: str) -> int:
    """Seq of the newest entry of an alias; 0 when there is none."""
    table = schema.feed_heads
    return connection.execute(select(table.c.seq).where(table.c.alias == alias)).scalar() or 0

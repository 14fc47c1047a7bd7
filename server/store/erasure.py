"""Taking away what is kept: a person's data at their word, and groups by their age.

What stays of a group is a tombstone: its id, its place (tenant, alias), when and by which adapter it was answered, and
that it is gone. Whoever was told of it by the feed is told again. The bytes of images are not rows:
`server.retention` removes those that no group shows any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, func, select, update

from server.store import feed, schema
from server.store.dialect import in_parts
from server.store.records import FeedKind, GroupState, SignalKind

GONE: Final = (GroupState.ERASED, GroupState.EXPIRED)
EMPTY: Final[dict[str, Any]] = {
    "user_hash": None,
    "prompt_digest": "",
    "regenerate_of": None,
    "prompt": [],
    "sampling": {},
    "prompt_token_ids": b"",
    "degraded": [],
    "reward": None,
    "duration_s": None,
}
"""What a tombstone says in place of content. Stop strings are content, and so is the digest of a short prompt."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What went: how much, the images that no group shows any more, and the aliases whose feed tells of it."""

    groups: int = 0
    signals: int = 0
    images: tuple[str, ...] = ()
    aliases: frozenset[str] = frozenset()

    def __add__(self, other: Removed) -> Removed:
        return Removed(
            self.groups + other.groups,
            self.signals + other.signals,
            self.images + other.images,
            self.aliases | other.aliases,
        )


def groups_of(connection: Connection, tenant: str, user_hash: str) -> list[str]:
    """Every group that a user asked for, oldest first."""
    table = schema.groups
    query = select(table.c.id).where(table.c.tenant == tenant, table.c.user_hash == user_hash).order_by(table.c.id)
    return list(connection.execute(query).scalars())


def erase(connection: Connection, group_ids: Sequence[str], annotator: str, now: float) -> Removed:
    """Erase these groups, and whatever the annotator said of any group, history included."""
    removed = Removed()
    for part in in_parts(group_ids):
        removed += _clear(connection, part, GroupState.ERASED, FeedKind.ERASE, now)
    connection.execute(delete(schema.idempotency).where(schema.idempotency.c.annotator == annotator))
    return removed + _withdraw(connection, annotator, now)


def expire(connection: Connection, tenant: str, before: float, limit: int, now: float) -> Removed:
    """Let at most `limit` of a tenant's groups expire that are older than `before`, oldest first."""
    table = schema.groups
    states = [str(state) for state in GroupState if state not in GONE]
    due: list[str] = []
    for state in states:  # one by one: each is a range of the index
        query = select(table.c.id).where(table.c.tenant == tenant, table.c.state == state, table.c.created_at < before)
        due += connection.execute(query.order_by(table.c.created_at).limit(limit - len(due))).scalars()
    return _clear(connection, due, GroupState.EXPIRED, FeedKind.EXPIRE, now) if due else Removed()


def tenants(connection: Connection) -> list[str]:
    """Every tenant that has groups: one look into the index for each."""
    tenant, found = schema.groups.c.tenant, list[str]()
    query = select(func.min(tenant))
    while (following := connection.execute(query).scalar()) is not None:
        found.append(following)
        query = select(func.min(tenant)).where(tenant > following)
    return found


def without_row(connection: Connection, digests: Sequence[str]) -> set[str]:
    """Those of the images that no row tells of."""
    table = schema.media
    known: set[str] = set()
    for part in in_parts(digests):
        known.update(connection.execute(select(table.c.sha256).where(table.c.sha256.in_(part))).scalars())
    return set(digests) - known


def _clear(connection: Connection, group_ids: Sequence[str], state: GroupState, kind: FeedKind, now: float) -> Removed:
    """Make tombstones of the groups."""
    groups, signals, shown = schema.groups, schema.signals, schema.group_media
    count = connection.execute(delete(signals).where(signals.c.group_id.in_(group_ids))).rowcount
    connection.execute(delete(schema.candidates).where(schema.candidates.c.group_id.in_(group_ids)))
    connection.execute(delete(schema.shadows).where(schema.shadows.c.group_id.in_(group_ids)))
    gone = delete(shown).where(shown.c.group_id.in_(group_ids)).returning(shown.c.sha256)
    images = sorted(set(connection.execute(gone).scalars()))
    connection.execute(update(groups).where(groups.c.id.in_(group_ids)).values(state=state, **EMPTY))
    aliases = feed.tell_again(connection, group_ids, kind, now)
    return Removed(len(group_ids), count, _forget_images(connection, images), aliases)


def _withdraw(connection: Connection, annotator: str, now: float) -> Removed:
    """Remove all that the annotator said, and the candidates that came with it."""
    table, candidates = schema.signals, schema.candidates
    mine = table.c.annotator == annotator
    rows = connection.execute(select(table.c.group_id, table.c.kind, table.c.payload).where(mine)).all()
    typed = [row.payload["correction_id"] for row in rows if row.kind == SignalKind.CORRECTION]
    connection.execute(delete(table).where(mine))
    for part in in_parts(typed):
        connection.execute(delete(candidates).where(candidates.c.id.in_(part)))
    changed = list(dict.fromkeys(row.group_id for row in rows))
    return Removed(signals=len(rows), aliases=feed.tell_again(connection, changed, FeedKind.ERASE, now))


def _forget_images(connection: Connection, digests: Sequence[str]) -> tuple[str, ...]:
    """Remove the rows of those images that no group shows any more; which."""
    media, shown = schema.media, schema.group_media
    is_shown = select(shown.c.group_id).where(shown.c.sha256 == media.c.sha256).exists()
    gone: list[str] = []
    for part in in_parts(digests):
        query = delete(media).where(media.c.sha256.in_(part), ~is_shown).returning(media.c.sha256)
        gone += connection.execute(query).scalars()
    return tuple(gone)

"""What export and import ask of the store: an alias's groups in pages, and what is already kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, select, tuple_

from server.store import groups, schema
from server.store.records import GroupRecord, GroupState

Position = tuple[float, str]
"""Where a group stands in an export: when it was made, and its id."""


def position_of(connection: Connection, alias: str, group_id: str) -> Position | None:
    table = schema.groups
    row = connection.execute(
        select(table.c.created_at, table.c.id).where(table.c.id == group_id, table.c.alias == alias)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def completed_after(
    connection: Connection,
    alias: str,
    after: Position | None,
    *,
    tenants: Collection[str],
    is_holdout: bool | None,
    limit: int,
) -> list[GroupRecord]:
    """The alias's next completed groups of these tenants, oldest first; `is_holdout` None: both sides."""
    table = schema.groups
    wanted = select(table.c.id).where(
        table.c.alias == alias, table.c.state == GroupState.COMPLETED, table.c.tenant.in_(list(tenants))
    )
    if is_holdout is not None:
        wanted = wanted.where(table.c.is_holdout == is_holdout)
    if after is not None:
        wanted = wanted.where(tuple_(table.c.created_at, table.c.id) > tuple_(*after))
    ids = connection.execute(wanted.order_by(table.c.created_at, table.c.id).limit(limit)).scalars()
    return groups.get_groups(connection, list(ids))


def holds_images(connection: Connection, alias: str) -> bool:
    """Whether any group of the alias has an image."""
    found = (
        select(schema.group_media.c.group_id)
        .join(schema.groups, schema.groups.c.id == schema.group_media.c.group_id)
        .where(schema.groups.c.alias == alias)
        .limit(1)
    )
    return connection.execute(found).first() is not None


def states_of(connection: Connection, group_ids: Sequence[str]) -> dict[str, GroupState]:
    """The state of each group that is known, erased and expired ones included."""
    table = schema.groups
    rows = connection.execute(select(table.c.id, table.c.state).where(table.c.id.in_(list(group_ids))))
    return {group_id: GroupState(state) for group_id, state in rows}


def known_signals(connection: Connection, signal_ids: Sequence[str]) -> set[str]:
    """Which of the signals are kept, replaced ones included."""
    table = schema.signals
    return set(connection.execute(select(table.c.id).where(table.c.id.in_(list(signal_ids)))).scalars())

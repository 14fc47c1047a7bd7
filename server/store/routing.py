"""One routing row for each alias, changed by compare-and-swap on its generation."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Connection, insert, select, update

from server.store import schema
from server.store.records import GroupState, Routing
from server.wire.base import BASE


def get_routing(connection: Connection, alias: str) -> Routing | None:
    row = connection.execute(select(schema.routing).where(schema.routing.c.alias == alias)).mappings().one_or_none()
    return Routing(**row) if row else None


def create_routing(connection: Connection, routing: Routing) -> None:
    connection.execute(insert(schema.routing), dataclasses.asdict(routing))


def swap_routing(connection: Connection, expected_generation: int, routing: Routing) -> bool:
    """Replace the alias's row if it still stands at the expected generation; whether it did."""
    table = schema.routing
    result = connection.execute(
        update(table)
        .where(table.c.alias == routing.alias, table.c.generation == expected_generation)
        .values(**dataclasses.asdict(routing))
    )
    return result.rowcount == 1


def last_rollback(connection: Connection, alias: str) -> dict[str, Any] | None:
    """What the alias's newest rollback noted in the audit trail."""
    table = schema.audit
    row = connection.execute(
        select(table.c.detail)
        .where(table.c.subject == alias, table.c.action == "rollback")
        .order_by(table.c.id.desc())
        .limit(1)
    ).one_or_none()
    return dict(row.detail) if row else None


def last_retraining(connection: Connection, alias: str) -> tuple[int, int] | None:
    """The newest order to learn again: its number in the audit trail, and the feed's seq behind which to begin."""
    table = schema.audit
    row = connection.execute(
        select(table.c.id, table.c.detail)
        .where(table.c.subject == alias, table.c.action == "retrain")
        .order_by(table.c.id.desc())
        .limit(1)
    ).one_or_none()
    return (row.id, row.detail["feed_after"]) if row else None


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """What the canary's evidence needs of one stored request."""

    is_canary: bool
    was_blocked: bool
    has_failed: bool


def answered(connection: Connection, routing: Routing, limit: int) -> list[Answered]:
    """The first stored requests of the present generation, in the order in which they came."""
    groups, candidates = schema.groups, schema.candidates
    blocked = select(candidates.c.id).where(candidates.c.group_id == groups.c.id, candidates.c.is_blocked).exists()
    rows = connection.execute(
        select(groups.c.is_canary, groups.c.adapter, groups.c.state, blocked.label("blocked"))
        .where(
            groups.c.alias == routing.alias,
            groups.c.created_at >= routing.updated_at - 1,
            groups.c.generation == routing.generation,
            groups.c.state.in_([GroupState.COMPLETED, GroupState.FAILED]),
        )
        .order_by(groups.c.created_at, groups.c.id)
        .limit(limit)
    )
    return [
        Answered(
            row.is_canary, bool(row.blocked), row.state == GroupState.FAILED or (row.is_canary and row.adapter == BASE)
        )
        for row in rows
    ]

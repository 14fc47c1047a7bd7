"""One routing row for each alias, changed by compare-and-swap on its generation."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Connection, insert, select, update

from server.store import schema
from server.store.records import Routing


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

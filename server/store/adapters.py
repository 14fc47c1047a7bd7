"""Adapter rows and their reports. Which state may follow which is decided by `server.adapters.states`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from server.store import schema
from server.store.records import AdapterRecord, AdapterState, GroupState, Report


def next_number(connection: Connection) -> int:
    """The number of the next adapter: numbers are never used twice."""
    return (connection.execute(select(func.max(schema.adapters.c.number))).scalar() or 0) + 1


def insert_adapter(connection: Connection, adapter: AdapterRecord) -> None:
    table = schema.adapters
    connection.execute(insert(table), {column.name: getattr(adapter, column.name) for column in table.columns})


def get_adapter(connection: Connection, adapter_id: str) -> AdapterRecord | None:
    table = schema.adapters
    row = connection.execute(select(table).where(table.c.id == adapter_id)).mappings().one_or_none()
    return AdapterRecord(**{**row, "state": AdapterState(row["state"])}) if row else None


def list_adapters(
    connection: Connection, *, alias: str | None = None, states: Collection[AdapterState] | None = None
) -> list[AdapterRecord]:
    """Oldest first."""
    table = schema.adapters
    query = select(table).order_by(table.c.number)
    if alias is not None:
        query = query.where(table.c.alias == alias)
    if states is not None:
        query = query.where(table.c.state.in_([str(state) for state in states]))
    rows = connection.execute(query).mappings()
    return [AdapterRecord(**{**row, "state": AdapterState(row["state"])}) for row in rows]


def set_state(
    connection: Connection, adapter_id: str, expected: Collection[AdapterState], state: AdapterState, now: float
) -> bool:
    """Move an adapter if it stands in one of the expected states; whether it did."""
    table = schema.adapters
    result = connection.execute(
        update(table)
        .where(table.c.id == adapter_id, table.c.state.in_([str(one) for one in expected]))
        .values(state=state, updated_at=now)
    )
    return result.rowcount == 1


def delete_adapter(connection: Connection, adapter_id: str) -> None:
    """Forget an ephemeral adapter."""
    connection.execute(schema.adapters.delete().where(schema.adapters.c.id == adapter_id))


def add_report(connection: Connection, subject: str, report: Report) -> None:
    connection.execute(
        insert(schema.reports).values(
            subject=subject,
            kind=report.kind,
            outcome=report.outcome,
            body=report.body,
            created_at=report.created_at,
        )
    )


def get_reports(connection: Connection, subject: str) -> list[Report]:
    """Oldest first."""
    table = schema.reports
    rows: Any = connection.execute(
        select(table.c.kind, table.c.outcome, table.c.body, table.c.created_at)
        .where(table.c.subject == subject)
        .order_by(table.c.id)
    ).mappings()
    return [Report(**row) for row in rows]


def recent_groups(connection: Connection, alias: str, limit: int) -> list[str]:
    """Ids of the alias's newest completed groups: something to probe an adapter with."""
    table = schema.groups
    rows = connection.execute(
        select(table.c.id)
        .where(table.c.alias == alias, table.c.state == GroupState.COMPLETED)
        .order_by(table.c.created_at.desc())
        .limit(limit)
    )
    return list(rows.scalars())

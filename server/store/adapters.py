"""Adapter rows and their reports. Which state may follow which is decided by `server.adapters.states`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from server.store import rounds, schema
from server.store.dialect import in_parts, upsert
from server.store.records import AdapterRecord, AdapterState, GroupState, Report


def next_number(connection: Connection) -> int:
    """A number for a new adapter: given once, by whichever server, also where nothing is published under it then."""
    table = schema.counters
    number: int = connection.execute(
        upsert(connection, table)
        .values(name="adapters", value=1)
        .on_conflict_do_update(index_elements=["name"], set_={"value": table.c.value + 1})
        .returning(table.c.value)
    ).scalar_one()
    return number


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


def add_sources(connection: Connection, adapter_id: str, sources: Collection[str]) -> None:
    """Note the groups and the annotators that an adapter learned from."""
    if sources:
        rows = [{"adapter": adapter_id, "source": source} for source in dict.fromkeys(sources)]
        connection.execute(insert(schema.adapter_sources), rows)


def learned_from(connection: Connection, sources: Sequence[str]) -> set[str]:
    """The adapters that name one of these groups or annotators among their sources."""
    table = schema.adapter_sources
    found: set[str] = set()
    for part in in_parts(sources):
        found.update(connection.execute(select(table.c.adapter).where(table.c.source.in_(part)).distinct()).scalars())
    return found


def forget_source(connection: Connection, source: str) -> None:
    table = schema.adapter_sources
    connection.execute(table.delete().where(table.c.source == source))


def without_sources(connection: Connection, aliases: Collection[str]) -> set[str]:
    """The aliases' adapters that name no sources: what they learned from is not known."""
    table, sources = schema.adapters, schema.adapter_sources
    has_any = select(sources.c.source).where(sources.c.adapter == table.c.id).exists()
    return set(connection.execute(select(table.c.id).where(table.c.alias.in_(list(aliases)), ~has_any)).scalars())


def delete_adapter(connection: Connection, adapter_id: str) -> None:
    """Forget an ephemeral adapter, and what was reported about it."""
    connection.execute(schema.reports.delete().where(schema.reports.c.subject == adapter_id))
    connection.execute(schema.adapter_sources.delete().where(schema.adapter_sources.c.adapter == adapter_id))
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
    """Of an adapter, and of the rounds that it came out of; oldest first."""
    table = schema.reports
    rows: Any = connection.execute(
        select(table.c.kind, table.c.outcome, table.c.body, table.c.created_at)
        .where(table.c.subject == subject)
        .order_by(table.c.id)
    ).mappings()
    found = [Report(**row) for row in rows]
    found += [Report("round", one.outcome, one.body, one.created_at) for one in rounds.of_adapter(connection, subject)]
    return sorted(found, key=lambda one: one.created_at)


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

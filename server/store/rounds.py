"""What became of training rounds, as their learners told it; uploaded, discarded and skipped ones alike."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Text, cast, select, update

from server.store import schema
from server.store.dialect import insert_missing
from server.store.records import RoundRecord


def add(connection: Connection, record: RoundRecord) -> bool:
    """Keep a round, whose `id` is given here; whether it is new: one that the alias has by its name already is not."""
    table = schema.rounds
    values = {column.name: getattr(record, column.name) for column in table.columns if column.name != "id"}
    return connection.execute(insert_missing(connection, table), values).rowcount > 0


def get(connection: Connection, round_id: int) -> RoundRecord | None:
    row = connection.execute(select(schema.rounds).where(schema.rounds.c.id == round_id)).mappings().one_or_none()
    return RoundRecord(**row) if row else None


def newest(connection: Connection, alias: str, limit: int, before: int | None = None) -> list[RoundRecord]:
    """An alias's rounds, newest first; those in front of the one with the id `before`."""
    table = schema.rounds
    query = select(table).where(table.c.alias == alias).order_by(table.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(table.c.id < before)
    return [RoundRecord(**row) for row in connection.execute(query).mappings()]


def of_adapter(connection: Connection, adapter: str) -> list[RoundRecord]:
    """The rounds that the adapter came out of, oldest first."""
    table = schema.rounds
    query = select(table).where(table.c.adapter == adapter).order_by(table.c.id)
    return [RoundRecord(**row) for row in connection.execute(query).mappings()]


def forget_annotator(connection: Connection, annotator: str) -> None:
    """Take a person out of what rounds said of each annotator."""
    table = schema.rounds
    query = select(table.c.id, table.c.body).where(cast(table.c.body, Text).contains(annotator, autoescape=True))
    for row in connection.execute(query).all():
        body: dict[str, Any] = dict(row.body)
        if isinstance(body.get("reliabilities"), dict):
            body["reliabilities"] = {name: value for name, value in body["reliabilities"].items() if name != annotator}
            connection.execute(update(table).where(table.c.id == row.id).values(body=body))

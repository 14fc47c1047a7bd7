"""Who changed what, when and why. Rows are only ever added."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, insert, select

from server.store import schema
from server.wire.operate import AuditEntry

MOVES: Final = ("canary", "promote", "end_canary", "rollback", "undo", "quarantine", "roll_back", "retrain")
"""Actions that change routing."""
OWN_MOVES: Final = ("canary", "promote", "end_canary")
"""Those that the server makes by itself; their detail holds the row before and after."""


def record(
    connection: Connection, *, actor: str, action: str, subject: str, detail: dict[str, Any], now: float
) -> None:
    connection.execute(insert(schema.audit).values(at=now, actor=actor, action=action, subject=subject, detail=detail))


def erased_from(connection: Connection, user_hash: str) -> set[str]:
    """The adapters that were found to have learned from a user, at every erasure so far."""
    table = schema.audit
    query = select(table.c.detail).where(table.c.subject == user_hash, table.c.action == "erase")
    return {adapter for detail in connection.execute(query).scalars() for adapter in detail["adapters"]}


def moves_by(connection: Connection, actor: str, alias: str, since: float) -> list[AuditEntry]:
    """The actor's moves of the alias's routing, newest first."""
    table = schema.audit
    query = (
        select(table)
        .where(table.c.actor == actor, table.c.at >= since, table.c.action.in_(OWN_MOVES))
        .order_by(table.c.at.desc(), table.c.id.desc())
    )
    entries = [AuditEntry(**row) for row in connection.execute(query).mappings()]
    return [one for one in entries if one.detail["after"]["alias"] == alias]


def about_adapter(connection: Connection, adapter: str, limit: int) -> list[AuditEntry]:
    """Every entry of the adapter's own, and the newest moves of routing, whosever they are; oldest first."""
    table = schema.audit
    moves = select(table.c.id).where(table.c.action.in_(MOVES)).order_by(table.c.id.desc()).limit(limit)
    query = select(table).where((table.c.subject == adapter) | table.c.id.in_(moves)).order_by(table.c.id)
    return [AuditEntry(**row) for row in connection.execute(query).mappings()]


def newest(connection: Connection, limit: int, subject: str | None = None) -> list[AuditEntry]:
    """Newest first."""
    query = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(schema.audit.c.subject == subject)
    return [AuditEntry(**row) for row in connection.execute(query).mappings()]

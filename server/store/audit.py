"""Who changed what, when and why. Rows are only ever added."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select

from server.store import schema
from server.wire.operate import AuditEntry


def record(
    connection: Connection, *, actor: str, action: str, subject: str, detail: dict[str, Any], now: float
) -> None:
    connection.execute(insert(schema.audit).values(at=now, actor=actor, action=action, subject=subject, detail=detail))


def newest(connection: Connection, limit: int, subject: str | None = None) -> list[AuditEntry]:
    """Newest first."""
    query = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(schema.audit.c.subject == subject)
    return [AuditEntry(**row) for row in connection.execute(query).mappings()]

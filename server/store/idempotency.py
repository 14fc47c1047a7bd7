"""Replies kept under the client's Idempotency-Key: the same key and body give the same reply."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, select, tuple_

from server.errors import IdempotencyMismatch
from server.store import schema


def find_reply(connection: Connection, tenant: str, key: str, request_hash: str) -> dict[str, Any] | None:
    """The kept reply; raises `IdempotencyMismatch` when the key came with another request."""
    table = schema.idempotency
    row = connection.execute(select(table).where(table.c.tenant == tenant, table.c.key == key)).mappings().one_or_none()
    if row is None:
        return None
    if row["request_hash"] != request_hash:
        raise IdempotencyMismatch("This Idempotency-Key was used with another request; use a new one.")
    return dict(row["reply"])


def keep_reply(
    connection: Connection,
    tenant: str,
    key: str,
    *,
    annotator: str,
    request_hash: str,
    reply: dict[str, Any],
    now: float,
) -> None:
    connection.execute(
        insert(schema.idempotency).values(
            tenant=tenant, key=key, annotator=annotator, request_hash=request_hash, reply=reply, created_at=now
        )
    )


def purge(connection: Connection, before: float, limit: int) -> int:
    """Forget the oldest replies that were kept before this time, at most `limit`; how many."""
    table = schema.idempotency
    oldest = select(table.c.tenant, table.c.key).where(table.c.created_at < before)
    oldest = oldest.order_by(table.c.created_at).limit(limit)
    return connection.execute(delete(table).where(tuple_(table.c.tenant, table.c.key).in_(oldest))).rowcount

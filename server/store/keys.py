"""API keys: kept as hashes, with a tenant and a role."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from server.store import schema


@dataclass(frozen=True, slots=True)
class KeyRecord:
    id: str
    tenant: str
    role: str


def add_key(connection: Connection, key: KeyRecord, key_hash: str, now: float) -> None:
    connection.execute(
        insert(schema.api_keys).values(id=key.id, tenant=key.tenant, role=key.role, key_hash=key_hash, created_at=now)
    )


def find_key(connection: Connection, key_hash: str) -> KeyRecord | None:
    """The unrevoked key with this hash."""
    table = schema.api_keys
    row = connection.execute(
        select(table.c.id, table.c.tenant, table.c.role).where(
            table.c.key_hash == key_hash, table.c.revoked_at.is_(None)
        )
    ).one_or_none()
    return KeyRecord(row.id, row.tenant, row.role) if row else None


def revoke_key(connection: Connection, key_id: str, now: float) -> bool:
    """Whether there was such a key in force."""
    table = schema.api_keys
    result = connection.execute(
        update(table).where(table.c.id == key_id, table.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    return result.rowcount == 1

"""Who may train an alias. The token grows with each new holder, so a late holder is recognised."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from server.store import schema
from server.store.records import Lease


def get_lease(connection: Connection, alias: str) -> Lease | None:
    row = connection.execute(select(schema.leases).where(schema.leases.c.alias == alias)).mappings().one_or_none()
    return Lease(**row) if row else None


def take_lease(connection: Connection, alias: str, owner: str, now: float, ttl_s: float) -> Lease | None:
    """The lease if it is free, expired, or the owner's own (which gets a new token); None when another holds it."""
    table = schema.leases
    held = get_lease(connection, alias)
    if held is None:
        lease = Lease(alias, owner, 1, now + ttl_s)
        connection.execute(
            insert(table).values(alias=alias, owner=owner, token=lease.token, expires_at=lease.expires_at)
        )
        return lease
    if held.owner != owner and held.expires_at > now:
        return None
    lease = Lease(alias, owner, held.token + 1, now + ttl_s)
    connection.execute(
        update(table).where(table.c.alias == alias).values(owner=owner, token=lease.token, expires_at=lease.expires_at)
    )
    return lease


def renew_lease(connection: Connection, alias: str, token: int, now: float, ttl_s: float) -> Lease | None:
    """Extend the lease; None when the token is not the newest one or the lease has run out."""
    held = get_lease(connection, alias)
    if held is None or held.token != token or held.expires_at <= now:
        return None
    expires_at = now + ttl_s
    connection.execute(update(schema.leases).where(schema.leases.c.alias == alias).values(expires_at=expires_at))
    return Lease(alias, held.owner, token, expires_at)

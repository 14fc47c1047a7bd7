"""Who may train an alias. The token grows with each new holder, so a late holder is recognised.

A lease that ran out may be taken by anybody; until somebody does, its holder may go on with it. So a holder that could
not be heard for a while (the server was away) loses nothing.
"""

from __future__ import annotations

from dataclasses import asdict, replace

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
        lease = Lease(alias, owner, 1, ttl_s, now + ttl_s)
        connection.execute(insert(table).values(**asdict(lease)))
        return lease
    if held.owner != owner and held.expires_at > now:
        return None
    lease = Lease(alias, owner, held.token + 1, ttl_s, now + ttl_s)
    connection.execute(update(table).where(table.c.alias == alias).values(**asdict(lease)))
    return lease


def renew_lease(connection: Connection, alias: str, token: int, now: float) -> Lease | None:
    """Extend the lease by its own length, also one that has run out; None when the token is not the newest one."""
    held = get_lease(connection, alias)
    if held is None or held.token != token:
        return None
    lease = replace(held, expires_at=now + held.ttl_s)
    connection.execute(update(schema.leases).where(schema.leases.c.alias == alias).values(expires_at=lease.expires_at))
    return lease

"""API keys: kept as hashes, with a tenant, a role, an end and budgets of their own."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Row, Select, func, insert, or_, select, update

from server.store import schema


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key without its secret. Times are UTC seconds since the epoch; a budget of None is the role's."""

    id: str
    tenant: str
    role: str
    name: str = ""
    created_by: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None
    """Coarse: written an hour apart at most."""
    requests_per_minute: int | None = None
    candidates_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def is_in_force(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def budgets(self) -> dict[str, int]:
        """The key's own, by the names of `BudgetConfig`."""
        own = {
            "requests_per_minute": self.requests_per_minute,
            "candidates_per_minute": self.candidates_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
        }
        return {name: value for name, value in own.items() if value is not None}


_FIELDS = tuple(KeyRecord.__dataclass_fields__)
_COLUMNS = tuple(schema.api_keys.c[name] for name in _FIELDS)


def add_key(connection: Connection, key: KeyRecord, key_hash: str, now: float) -> None:
    values = {name: getattr(key, name) for name in _FIELDS} | {"key_hash": key_hash, "created_at": now}
    connection.execute(insert(schema.api_keys).values(values))


def find_key(connection: Connection, key_hash: str) -> KeyRecord | None:
    """The unrevoked key with this hash."""
    table = schema.api_keys
    query = select(*_COLUMNS).where(table.c.key_hash == key_hash, table.c.revoked_at.is_(None))
    return _one(connection, query)


def get_key(connection: Connection, key_id: str) -> KeyRecord | None:
    """The key with this id, revoked or not."""
    return _one(connection, select(*_COLUMNS).where(schema.api_keys.c.id == key_id))


def list_keys(connection: Connection, after: str | None, limit: int) -> list[KeyRecord]:
    """Every key, revoked ones too, oldest first; `after` goes on behind an id."""
    table = schema.api_keys
    query = select(*_COLUMNS).order_by(table.c.id).limit(limit)
    if after is not None:
        query = query.where(table.c.id > after)
    return [_record(row) for row in connection.execute(query)]


def count_in_force(connection: Connection, role: str, now: float) -> int:
    """Keys of the role that are neither revoked nor expired."""
    table = schema.api_keys
    query = (
        select(func.count())
        .select_from(table)
        .where(
            table.c.role == role,
            table.c.revoked_at.is_(None),
            or_(table.c.expires_at.is_(None), table.c.expires_at > now),
        )
    )
    return connection.execute(query).scalar_one()


def revoke_key(connection: Connection, key_id: str, now: float) -> bool:
    """Whether there was such a key in force."""
    table = schema.api_keys
    result = connection.execute(
        update(table).where(table.c.id == key_id, table.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    return result.rowcount == 1


def note_use(connection: Connection, key_id: str, now: float) -> None:
    connection.execute(update(schema.api_keys).where(schema.api_keys.c.id == key_id).values(last_used_at=now))


def _one(connection: Connection, query: Select[tuple[object, ...]]) -> KeyRecord | None:
    row = connection.execute(query).one_or_none()
    return _record(row) if row is not None else None


def _record(row: Row[tuple[object, ...]]) -> KeyRecord:
    return KeyRecord(**row._mapping)

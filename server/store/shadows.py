"""What shadows' answers were worth: one row for an answer, without its text, for as long as its group is kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, func, insert, select

from server.store import groups, schema
from server.store.records import GroupState, ShadowRecord


@dataclass(frozen=True, slots=True)
class Pair:
    """One request, answered twice."""

    unit: str
    """The user, or where none was named the request."""
    is_blocked: bool
    has_failed: bool
    reward: float | None
    duration_s: float
    active_is_blocked: bool
    active_reward: float | None
    active_duration_s: float | None


def add(connection: Connection, shadow: ShadowRecord) -> bool:
    """Keep it, unless its group is gone meanwhile; whether it was kept."""
    if groups.get_state(connection, shadow.group_id) is not GroupState.COMPLETED:
        return False
    connection.execute(insert(schema.shadows), asdict(shadow))
    return True


def newest(connection: Connection, adapter: str, active: str, limit: int) -> list[Pair]:
    """The adapter's newest answers as a shadow of `active`, newest first."""
    table, shown, candidates = schema.shadows, schema.groups, schema.candidates
    blocked = select(candidates.c.id).where(candidates.c.group_id == shown.c.id, candidates.c.is_blocked).limit(1)
    rows = connection.execute(
        select(
            func.coalesce(shown.c.user_hash, shown.c.id).label("unit"),
            table.c.is_blocked,
            table.c.has_failed,
            table.c.reward,
            table.c.duration_s,
            blocked.scalar_subquery().label("active_blocked"),
            table.c.active_reward,
            shown.c.duration_s.label("active_duration_s"),
        )
        .join(shown, shown.c.id == table.c.group_id)
        .where(table.c.adapter == adapter, shown.c.adapter == active)
        .order_by(table.c.created_at.desc())
        .limit(limit)
    )
    return [
        Pair(
            unit=row.unit,
            is_blocked=row.is_blocked,
            has_failed=row.has_failed,
            reward=row.reward,
            duration_s=row.duration_s,
            active_is_blocked=row.active_blocked is not None,
            active_reward=row.active_reward,
            active_duration_s=row.active_duration_s,
        )
        for row in rows
    ]

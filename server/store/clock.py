"""The latest time that was believed, so that no clock which jumps can delete anything.

A time behind the latest one is not believed. One that is more than `LARGEST_STEP_S` ahead is doubted: it is believed
once the clock has gone on from there for `DOUBT_S`, as it does when the server was switched off for long, and does not
when somebody mends the clock.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, insert, select, update

from server.store import schema

LARGEST_STEP_S: Final = 7 * 24 * 3600.0
DOUBT_S: Final = 24 * 3600.0


def believe(connection: Connection, name: str, now: float) -> bool:
    """Whether `now` can be believed; then it is the latest time. `name` says who asks: each has its own."""
    table = schema.clock
    known = connection.execute(select(table.c.seen_at, table.c.doubted_at).where(table.c.name == name)).one_or_none()
    if known is None:
        connection.execute(insert(table).values(name=name, seen_at=now))
        return True
    seen_at, doubted_at = known
    if seen_at <= now <= seen_at + LARGEST_STEP_S or _has_held(doubted_at, now):
        connection.execute(update(table).where(table.c.name == name).values(seen_at=now, doubted_at=None))
        return True
    doubted = _doubted(seen_at, doubted_at, now)
    connection.execute(update(table).where(table.c.name == name).values(doubted_at=doubted))
    return False


def _has_held(doubted_at: float | None, now: float) -> bool:
    return doubted_at is not None and DOUBT_S <= now - doubted_at <= LARGEST_STEP_S


def _doubted(seen_at: float, doubted_at: float | None, now: float) -> float | None:
    """From when the present doubt dates: a clock that goes back, or jumps once more, begins anew."""
    if now < seen_at:
        return None
    goes_on = doubted_at is not None and doubted_at <= now < doubted_at + DOUBT_S
    return doubted_at if goes_on else now

"""What shadows' answers were worth, kept as long as their groups and no longer."""

from __future__ import annotations

from sqlalchemy import func, select

from server.store import erasure, groups, schema, shadows
from server.store.database import Database
from server.store.records import GroupState, ShadowRecord
from server.store.shadows import Pair
from tests.server.store.rows import candidate, group


def shadow(group_id: str, created_at: float = 1.0, adapter: str = "a2") -> ShadowRecord:
    return ShadowRecord(group_id, adapter, False, False, 0.75, 0.5, 3.0, created_at)


async def kept(database: Database) -> int:
    return await database.read(lambda c: c.execute(select(func.count()).select_from(schema.shadows)).scalar_one())


async def test_pairs_are_read_with_the_answer_that_was_shown(database: Database) -> None:
    """Newest first, only beside the adapter that is compared, with its user, verdict and duration."""
    blocked = (candidate("one", 0, is_blocked=True), candidate("one", 1))
    for record in (
        group("one", adapter="a1", user_hash="ann", duration_s=2.0, candidates=0),
        group("two", adapter="a1", user_hash=None),
        group("three", adapter="base"),
    ):
        await database.write(lambda c, record=record: groups.insert_group(c, record))
    await database.write(lambda c: [groups.add_candidate(c, "one", one) for one in blocked])
    for number, name in enumerate(("one", "two", "three")):
        assert await database.write(lambda c, n=number, name=name: shadows.add(c, shadow(name, n)))
    await database.write(lambda c: shadows.add(c, shadow("one", adapter="a3")))
    assert await database.read(lambda c: shadows.newest(c, "a2", "a1", 10)) == [
        Pair("two", False, False, 0.75, 3.0, False, 0.5, None),
        Pair("ann", False, False, 0.75, 3.0, True, 0.5, 2.0),
    ]
    assert len(await database.read(lambda c: shadows.newest(c, "a2", "a1", 1))) == 1


async def test_erased_with_its_group(database: Database) -> None:
    """And never kept after it."""
    await database.write(lambda c: groups.insert_group(c, group("one", user_hash="ann")))
    await database.write(lambda c: shadows.add(c, shadow("one")))
    await database.write(lambda c: erasure.erase(c, ["one"], "ann", 2.0))
    assert await kept(database) == 0
    assert not await database.write(lambda c: shadows.add(c, shadow("one")))
    assert await kept(database) == 0


async def test_expires_with_its_group(database: Database) -> None:
    """Retention takes it along."""
    await database.write(lambda c: groups.insert_group(c, group("one", created_at=0.0)))
    await database.write(lambda c: shadows.add(c, shadow("one")))
    await database.write(lambda c: erasure.expire(c, "default", 1.0, 10, 2.0))
    assert await database.read(lambda c: groups.get_state(c, "one")) is GroupState.EXPIRED
    assert await kept(database) == 0

"""Retention: what is too old becomes a tombstone, in small steps, and never by a clock that jumped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from server import faults
from server.config import StoreConfig
from server.retention import DAY_S, STEP, Retention
from server.store import clock, feed, groups, idempotency, schema
from server.store.blobs import LocalBlobs
from server.store.database import Database
from server.store.integrity import QUESTIONS
from server.store.records import FeedKind, GroupState, MediaRecord
from tests.server.store.rows import group

NOW = 100 * DAY_S
HOUR_S = 3600.0
Passing = Callable[..., Retention]


@pytest.fixture
def passing(database: Database, tmp_path: Path) -> Passing:
    """A retention at a given time."""
    blobs = LocalBlobs(tmp_path / "media")

    def at(now: float, **settings: Any) -> Retention:
        return Retention(StoreConfig(**{"retention_days": 30, **settings}), database, blobs, lambda: now)

    return at


async def store(database: Database, group_id: str, *, age_days: float, **changes: Any) -> None:
    record = group(group_id, created_at=NOW - age_days * DAY_S, **changes)
    await database.write(lambda c: groups.insert_group(c, record))


async def states(database: Database) -> dict[str, str]:
    rows = await database.read(lambda c: c.execute(select(schema.groups.c.id, schema.groups.c.state)).all())
    return {row.id: row.state for row in rows}


async def test_old_groups_expire(database: Database, passing: Passing) -> None:
    """Content, images and signals go, whatever the group's end was; young ones stay; learners are told."""
    image = MediaRecord("a" * 64, "image/png", 3)
    await store(database, "cmpl-old", age_days=31, media=(image,))
    await store(database, "cmpl-failed", age_days=31, state=GroupState.FAILED)
    await store(database, "cmpl-aborted", age_days=31, state=GroupState.ABORTED)
    await store(database, "cmpl-young", age_days=29)
    await database.write(lambda c: feed.append(c, "default", "cmpl-old", FeedKind.SIGNAL, 0.0))
    assert await passing(NOW).run() == 3
    assert await states(database) == {
        "cmpl-old": "expired", "cmpl-failed": "expired", "cmpl-aborted": "expired", "cmpl-young": "completed",
    }  # fmt: skip
    stone = await database.read(lambda c: groups.get_group(c, "cmpl-old"))
    assert stone is not None and not stone.candidates and not stone.prompt and not stone.prompt_token_ids
    assert await database.read(lambda c: groups.get_media(c, image.sha256)) is None
    entries = await database.read(lambda c: feed.read_after(c, "default", 0, 10))
    assert [(one.seq, one.kind.value, one.group_id) for one in entries] == [
        (1, "signal", "cmpl-old"),
        (2, "expire", "cmpl-old"),
    ]
    assert await passing(NOW).run() == 0, "a tombstone does not expire again"
    for question, _ in QUESTIONS.values():
        assert await database.read(question) == []


async def test_tenants_may_have_their_own_age(database: Database, passing: Passing) -> None:
    """A shorter one, a longer one, and 0 for ever; who has none gets everybody's."""
    for tenant in ("default", "brief", "patient", "keeper"):
        await store(database, f"cmpl-{tenant}", age_days=40, tenant=tenant)
        await store(database, f"cmpl-{tenant}-new", age_days=5, tenant=tenant)
    ages = {"brief": 1, "patient": 60, "keeper": 0}
    await passing(NOW, tenant_retention_days=ages).run()
    expired = {group_id for group_id, state in (await states(database)).items() if state == "expired"}
    assert expired == {"cmpl-default", "cmpl-brief", "cmpl-brief-new"}


async def test_by_default_all_is_kept(database: Database, passing: Passing) -> None:
    """Without a setting nothing is too old."""
    await store(database, "cmpl-1", age_days=100)
    assert await passing(NOW, retention_days=0).run() == 0


async def test_it_goes_in_small_steps_and_goes_on_where_it_was_cut_off(database: Database, passing: Passing) -> None:
    """No step is larger than `STEP`; a pass that fails half-way leaves the rest for the next."""

    def fill(connection: Any) -> None:
        for number in range(2 * STEP + 10):
            groups.insert_group(connection, group(f"cmpl-{number}", candidates=1, created_at=0.0))

    await database.write(fill)
    with faults.armed("retention.half_done=fail@1"), pytest.raises(OSError):
        await passing(NOW).run()
    assert list((await states(database)).values()).count("expired") == STEP
    assert await passing(NOW).run() == STEP + 10


async def test_old_replies_to_idempotency_keys_go(database: Database, passing: Passing) -> None:
    """They are needed for as long as a client may repeat its request, and no longer."""
    for key, age_s in (("old", 25 * HOUR_S), ("young", HOUR_S)):
        await database.write(
            lambda c, key=key, age_s=age_s: idempotency.keep_reply(
                c, "default", key, annotator="ann", request_hash="", reply={}, now=NOW - age_s
            )
        )
    await passing(NOW, retention_days=0).run()
    left = await database.read(lambda c: c.execute(select(schema.idempotency.c.key)).scalars().all())
    assert left == ["young"]


async def test_a_clock_that_went_back_deletes_nothing(database: Database, passing: Passing) -> None:
    """Nor does it lose what it knew: once the time is reached again, all goes on."""
    await passing(NOW).run()
    await store(database, "cmpl-1", age_days=31)
    assert await passing(NOW - HOUR_S).run() == 0
    assert await passing(NOW + HOUR_S).run() == 1


async def test_a_clock_that_jumped_ahead_deletes_nothing(database: Database, passing: Passing) -> None:
    """Mended within a day, it has done nothing; and the right time is believed as before."""
    await store(database, "cmpl-1", age_days=0)
    await passing(NOW).run()
    assert await passing(NOW + 3650 * DAY_S).run() == 0
    assert await passing(NOW + 3650 * DAY_S + 23 * HOUR_S).run() == 0
    assert await passing(NOW + DAY_S).run() == 0
    assert await states(database) == {"cmpl-1": "completed"}
    assert await passing(NOW + 3650 * DAY_S + 25 * HOUR_S).run() == 0, "a doubt that was settled begins anew"
    assert await database.write(lambda c: clock.believe(c, "retention", NOW + 2 * DAY_S))


async def test_after_a_long_pause_a_day_is_waited(database: Database, passing: Passing) -> None:
    """A server that was off for months looks like a clock that jumped: it is believed once it has held for a day."""
    await store(database, "cmpl-1", age_days=0)
    await passing(NOW).run()
    later = NOW + 90 * DAY_S
    for hour in range(24):
        assert await passing(later + hour * HOUR_S).run() == 0
    assert await passing(later + 24 * HOUR_S).run() == 1


async def test_a_tenants_search_needs_no_scan(database: Database) -> None:
    """Whoever has groups is found, each once."""
    from server.store import erasure

    assert await database.read(erasure.tenants) == []
    for number, tenant in enumerate(("b", "a", "b", "c", "a")):
        await store(database, f"cmpl-{number}", age_days=1, tenant=tenant)
    assert await database.read(erasure.tenants) == ["a", "b", "c"]
    assert await database.read(lambda c: c.execute(select(func.count()).select_from(schema.groups)).scalar()) == 5

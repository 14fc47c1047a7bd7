"""Kill -9 at every named point, and at real syncs: what was acknowledged is there afterwards, once, and whole.

The ledger of acknowledgements is the clients' own. After the restart every call is repeated: what was acknowledged
gets the same reply, what was not happens now, once. Then the check of the whole state finds nothing (I1, I2, I3, I12).
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from sqlalchemy import Connection

from server.store import feed, groups
from server.store.opening import open_database
from server.store.records import FeedKind
from tests.faults import disk
from tests.faults.service import RESTART_LIMIT_S, Ledger, Service, assert_all_there, settle, talk, use
from tests.server.store.rows import group

POINTS = [
    "chat.before_insert",
    "chat.after_insert",
    "chat.after_commit",
    "chat.after_first_byte",
    "feedback.before_commit",
    "feedback.after_commit",
    "store.before_commit",
    "store.after_commit",
    "file.before_rename",
    "file.after_rename",
]
QUICK = {"chat.after_commit", "feedback.after_commit"}

DISK = {"wal.write": 200, "wal.half_write": 200, "wal.sync": 40, "db.write": 3, "db.half_write": 3, "db.sync": 1}
"""Where → at which time. The `db` ones happen in checkpoints, once the log has grown to a thousand pages."""
needs_disk = pytest.mark.skipif(not disk.available(), reason="sqlite3 is not linked to a shared library")


async def comes_back_whole(service: Service, ledger: Ledger) -> None:
    """The service starts in time, repeats its replies, and what is on disk is what the clients were told."""
    assert service.start() < RESTART_LIMIT_S
    async with service.client() as client:
        await settle(client, ledger)
        await talk(client, ledger, "afterwards")
    assert service.stop() == 0
    await assert_all_there(service, ledger)
    assert await service.check() == []


@pytest.mark.parametrize(
    "point", [point if point in QUICK else pytest.param(point, marks=pytest.mark.slow) for point in POINTS]
)
async def test_killed_at_a_point(service: Service, ledger: Ledger, point: str) -> None:
    """Whatever the process was doing, nothing acknowledged is lost and nothing is half done."""
    service.start(at=f"{point}=kill@7")
    await use(service, ledger)
    service.wait_until_killed()
    assert ledger.acknowledged
    await comes_back_whole(service, ledger)


@pytest.mark.slow
@pytest.mark.parametrize("again", ["store.before_commit", "store.sync", "store.after_commit"])
async def test_killed_again_while_it_recovers(service: Service, ledger: Ledger, again: str) -> None:
    """A second and a third death during the start after the first change nothing."""
    service.start(at="store.after_commit=kill@20")
    await use(service, ledger)
    service.wait_until_killed()
    for hit in (1, 1):
        service.launch(at=f"{again}=kill@{hit}")
        service.wait_until_killed()
    assert ledger.acknowledged
    await comes_back_whole(service, ledger)


@pytest.mark.slow
async def test_killed_during_migration(service: Service, ledger: Ledger) -> None:
    """The first start dies in the middle of making the schema, twice; the third makes it."""
    for _ in range(2):
        service.launch(at="store.migrating=kill@1")
        service.wait_until_killed()
    await comes_back_whole(service, ledger)


@needs_disk
@pytest.mark.slow
async def test_killed_at_disk_operations_of_the_first_start(tmp_path: Path) -> None:
    """Each start dies at a later disk operation, on what the last one left, until one comes through."""
    service, operation = Service(tmp_path), 1
    while service.dies(service.launch(on_disk=f"db.*|wal.*=kill@{operation}")):
        operation += max(1, operation // 3)
    service.kill()
    assert operation > 100
    await comes_back_whole(service, Ledger())


@needs_disk
@pytest.mark.slow
@pytest.mark.parametrize("operation", DISK)
async def test_killed_at_a_disk_operation(tmp_path: Path, operation: str) -> None:
    """At a real write, in the middle of one, and at a real sync; and at the same once more during recovery."""
    service, ledger = Service(tmp_path), Ledger()
    service.start()
    service.kill()
    service.start(on_disk=f"{operation}=kill@{DISK[operation]}")
    await use(service, ledger, clients=8)
    service.wait_until_killed(60)
    assert ledger.acknowledged
    service.launch(on_disk=f"{operation}=kill@1")
    await use(service, ledger, clients=8, offset=100)
    service.kill()
    await comes_back_whole(service, ledger)


OLD = 250
"""Groups whose time has come: more than retention takes at once."""


@pytest.mark.slow
async def test_killed_half_way_through_retention(service: Service) -> None:
    """What has expired stays so, the rest follows at the next start, and the feed tells of each once."""
    database = open_database(service.config.store)
    (service.directory / "state").mkdir()
    await database.start()

    def fill(connection: Connection) -> None:
        for number in range(OLD):
            groups.insert_group(connection, group(f"cmpl-{number:04}"))
            feed.append(connection, "default", f"cmpl-{number:04}", FeedKind.SIGNAL, 0.0)

    await database.write(fill)
    await database.close()
    for _ in range(2):
        service.launch(at="retention.half_done=kill@1")
        service.wait_until_killed()
    service.start()
    for _ in range(200):
        async with service.client() as client:
            page = (await client.get("/v1/training/feed?alias=default&limit=1000")).json()
        if page["head"] == 2 * OLD:
            break
        await asyncio.sleep(0.05)
    assert service.stop() == 0
    expired = [entry["group_id"] for entry in page["entries"] if entry["kind"] == "expire"]
    assert sorted(expired) == [f"cmpl-{number:04}" for number in range(OLD)]
    assert await service.check() == []


@pytest.mark.slow
async def test_killed_again_and_again(service: Service, ledger: Ledger) -> None:
    """Ten lives of one installation, each ended at another random point."""
    rng = random.Random(5)
    for life in range(10):
        service.start(at=f"{rng.choice(POINTS)}=kill@{rng.randrange(1, 40)}")
        await use(service, ledger, offset=life * 10)
        service.wait_until_killed()
    await comes_back_whole(service, ledger)

"""Two servers on one database: who follows whose moves, and who refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.adapters.lease import RoutingLease
from server.adapters.routing import Router
from server.errors import StorageUnavailable
from server.store.database import Database, Operation
from server.store.sqlite import SqliteDatabase
from tests.server.adapters.support import ALIAS, OPERATOR, World, until


class Now:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Flaky:
    """A database's reads, which can be made to fail or to hang."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self.is_away = False
        self.is_hanging = False
        self.reads = 0

    async def read(self, work: Operation[object]) -> object:
        self.reads += 1
        if self.is_hanging:
            await asyncio.sleep(60)
        if self.is_away:
            raise StorageUnavailable("the line is dead")
        return await self._database.read(work)


class Other:
    """Another server on the world's database."""

    def __init__(self, world: World, lease_s: float) -> None:
        self.now, self.arrived = Now(), []
        self.database = Flaky(world.database)
        self.router = Router(
            world.database, [ALIAS], clock=world.clock, verify=world.registry.verify, is_intact=world.registry.is_intact
        )
        database: Database = self.database  # type: ignore[assignment]
        self.lease = RoutingLease(database, self.router, [ALIAS], lease_s=lease_s, arrive=self._arrive, clock=self.now)

    async def _arrive(self, adapter: str) -> None:
        assert adapter not in (self.router.current(ALIAS).active, self.router.current(ALIAS).canary)
        self.arrived.append(adapter)

    async def served_by(self) -> str:
        await self.lease.renew()
        return self.router.assign(ALIAS, None).adapter


@pytest.fixture
async def other(world: World) -> AsyncIterator[Other]:
    one = Other(world, lease_s=0.3)
    await one.router.load()
    yield one
    await one.lease.stop()


async def test_a_move_elsewhere_is_followed_within_the_lease(world: World, other: Other) -> None:
    """Promotion and rollback; while the lease is good nothing is read, after it nothing old is served."""
    assert await other.served_by() == "base"
    first, second = await world.active(), await world.active()
    assert await other.served_by() == "base"  # still within the lease
    other.now.now += 0.31
    assert await other.served_by() == second
    assert other.arrived == sorted([first, second])
    await world.router.rollback(ALIAS, OPERATOR)
    other.now.now += 0.31
    assert await other.served_by() == first
    assert other.router.current(ALIAS).generation == world.router.current(ALIAS).generation


async def test_it_is_followed_without_any_request(world: World, other: Other) -> None:
    """The background reads three times in a lease."""
    await other.lease.start()
    adapter = await world.active()
    await until(lambda: other.router.current(ALIAS).active == adapter)


@pytest.mark.parametrize("trouble", ["is_away", "is_hanging"])
async def test_a_server_that_cannot_read_refuses_once_its_lease_is_over(other: Other, trouble: str) -> None:
    """Not before; and it serves again as soon as it can read."""
    await other.served_by()
    setattr(other.database, trouble, True)
    other.now.now += 0.29
    assert await other.served_by() == "base"
    other.now.now += 0.02
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await other.served_by()
    assert not other.lease.is_good
    setattr(other.database, trouble, False)
    assert await other.served_by() == "base"


async def test_many_requests_wait_for_one_read(other: Other) -> None:
    """A lease that is over is renewed once."""
    await other.served_by()
    other.now.now += 1.0
    before = other.database.reads
    await asyncio.gather(*(other.served_by() for _ in range(50)))
    assert other.database.reads == before + 1


async def test_a_slow_read_counts_from_its_beginning(other: Other) -> None:
    """What it saw may be as old as that."""
    await other.served_by()
    other.now.now += 1.0
    began = other.now.now

    async def slow() -> None:
        other.now.now += 0.25  # while the read is on its way

    task = asyncio.create_task(slow())
    await other.served_by()
    await task
    other.now.now = began + 0.29
    assert other.lease.is_good
    other.now.now = began + 0.31
    assert not other.lease.is_good


async def test_a_server_that_owns_its_database_reads_nothing(world: World, tmp_path: Path) -> None:
    """No lease: memory is the truth."""
    alone = Other(world, lease_s=0.0)
    await alone.router.load()
    await alone.lease.start()
    alone.now.now += 1000.0
    alone.database.is_away = True
    assert await alone.served_by() == "base"
    assert alone.database.reads == 0

"""A bounded room with a bounded, fair queue."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from server.errors import Busy
from server.pipeline.admission import Admission


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """Requests that come, wait for their place, and stay until they are let go."""

    def __init__(self, room: Admission) -> None:
        self._room = room
        self.order: list[str] = []
        self.stays: dict[str, asyncio.Event] = {}

    async def come(self, tenant: str, name: str) -> asyncio.Task[None]:
        self.stays[name] = asyncio.Event()
        task = asyncio.create_task(self._visit(tenant, name))
        await settle()
        return task

    async def _visit(self, tenant: str, name: str) -> None:
        with self._room.join(tenant) as place:
            await place.turn()
            self.order.append(name)
            await self.stays[name].wait()

    async def let_go(self, name: str) -> None:
        self.stays[name].set()
        await settle()


async def test_places_go_to_the_tenants_in_turn() -> None:
    """Who has many waiting does not keep the others from theirs."""
    crowd = Crowd(Admission(concurrent=1, queued=10))
    for tenant, name in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1")]:
        await crowd.come(tenant, name)
    for name in ("a1", "a2", "b1", "c1"):
        await crowd.let_go(name)
    assert crowd.order == ["a1", "a2", "b1", "c1", "a3"]
    await crowd.let_go("a3")


async def test_nobody_fills_the_queue_alone() -> None:
    """A full queue takes the newest of the tenant with the most; a single tenant may use all of it."""
    room = Admission(concurrent=1, queued=4)
    crowd = Crowd(room)
    tasks = [await crowd.come("a", f"a{number}") for number in range(5)]
    with pytest.raises(Busy):
        await (await crowd.come("a", "a5"))
    newcomers = [await crowd.come("b", f"b{number}") for number in range(2)]
    for refused in (tasks[4], tasks[3]):
        with pytest.raises(Busy):
            await refused
    with pytest.raises(Busy):  # two of each wait: nobody has more than its part
        await (await crowd.come("b", "b2"))
    assert room.present == 5
    for name in ("a0", "a1", "b0", "a2", "b1"):
        await crowd.let_go(name)
    assert crowd.order == ["a0", "a1", "b0", "a2", "b1"]
    await asyncio.gather(*newcomers, *tasks[:3])
    assert room.present == 0


async def test_who_leaves_gives_up_the_place() -> None:
    """While waiting, inside, and in the moment in which the place is given."""
    room = Admission(concurrent=1, queued=3)
    crowd = Crowd(room)
    inside, waiting, next_one, last = [await crowd.come("a", name) for name in ("inside", "waiting", "next", "last")]
    waiting.cancel()
    await settle()
    assert room.present == 3
    inside.cancel()
    await asyncio.sleep(0)  # `next` holds its place now, and has not run yet
    next_one.cancel()
    await settle()
    assert crowd.order == ["inside", "last"]
    await crowd.let_go("last")
    assert room.present == 0 and last.done()
    with room.join("b") as place:
        await place.turn()


async def test_ten_thousand_at_once() -> None:
    """As many as there is room for are served, the rest is refused at once, and nobody waits without end."""
    room = Admission(concurrent=256, queued=1024)
    waits: list[float] = []

    async def ask(tenant: str) -> str:
        started = time.monotonic()
        try:
            with room.join(tenant) as place:
                await place.turn()
                await asyncio.sleep(0.01)
        except Busy:
            return "refused"
        waits.append(time.monotonic() - started)
        return "served"

    told = Counter(await asyncio.gather(*(ask(f"tenant {number % 7}") for number in range(10_000))))
    assert told["served"] == 256 + 1024
    assert told["refused"] == 10_000 - 1280
    assert sorted(waits)[int(len(waits) * 0.99)] < 5.0  # five rounds of 10 ms, on a busy machine
    assert room.present == 0

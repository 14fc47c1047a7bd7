"""Answers on their way: who asks waits exactly as long as somebody may still store the answer."""

from __future__ import annotations

import asyncio

import pytest

from server.errors import AnswerPending
from server.inflight import MAX_WAITING, InFlight


async def starts(in_flight: InFlight, completion: str = "a") -> asyncio.Task[None]:
    waiting = asyncio.create_task(in_flight.settled("t", completion))
    await asyncio.sleep(0)
    return waiting


async def test_what_nobody_holds_is_settled() -> None:
    """Unknown answers, and other tenants', cost no wait."""
    in_flight = InFlight(60.0)
    with in_flight.hold("t", "a"):
        await asyncio.wait_for(in_flight.settled("t", "b"), 0.1)
        await asyncio.wait_for(in_flight.settled("other", "a"), 0.1)


async def test_the_last_holder_settles() -> None:
    """An answer is given up when nobody may store it any more."""
    in_flight = InFlight(60.0)
    with in_flight.hold("t", "a"):
        with in_flight.hold("t", "a"):
            waiting = await starts(in_flight)
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 0.1)
    assert len(in_flight) == 0


async def test_the_commit_settles_before_the_holders_leave() -> None:
    """A client that reads slowly keeps no feedback waiting; whoever leaves later disturbs nobody."""
    in_flight = InFlight(60.0)
    with in_flight.hold("t", "a"):
        waiting = await starts(in_flight)
        in_flight.settle("t", "a")
        await asyncio.wait_for(waiting, 0.1)
        with in_flight.hold("t", "a"):
            pass
        in_flight.settle("t", "a")
    assert len(in_flight) == 0


async def test_waiting_is_bounded() -> None:
    """In time, and in the number of those who wait."""
    in_flight = InFlight(0.05)
    with in_flight.hold("t", "a"):
        waiting = [await starts(in_flight) for _ in range(MAX_WAITING)]
        with pytest.raises(AnswerPending):
            await in_flight.settled("t", "a")
        assert not any(one.done() for one in waiting)
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in done} == {AnswerPending}
    await in_flight.settled("t", "a")

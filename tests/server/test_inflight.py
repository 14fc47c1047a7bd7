"""Answers on their way: who asks waits exactly as long as somebody may still store the answer."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from server.errors import AnswerPending
from server.inflight import MAX_WAITING, UNDER_WAY_S, InFlight
from server.tokens import Signer


def alone(wait_s: float = 60.0) -> InFlight:
    """Of the only server."""
    return InFlight(wait_s, promised_at=None, clock=lambda: 0.0)


async def starts(in_flight: InFlight, completion: str = "a") -> asyncio.Task[None]:
    waiting = asyncio.create_task(in_flight.settled("t", completion))
    await asyncio.sleep(0)
    return waiting


async def test_what_nobody_holds_is_settled() -> None:
    """Unknown answers, and other tenants', cost no wait."""
    in_flight = alone()
    with in_flight.hold("t", "a"):
        await asyncio.wait_for(in_flight.settled("t", "b"), 0.1)
        await asyncio.wait_for(in_flight.settled("other", "a"), 0.1)


async def test_the_last_holder_settles() -> None:
    """An answer is given up when nobody may store it any more."""
    in_flight = alone()
    with in_flight.hold("t", "a"):
        with in_flight.hold("t", "a"):
            waiting = await starts(in_flight)
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 0.1)
    assert len(in_flight) == 0


async def test_the_commit_settles_before_the_holders_leave() -> None:
    """A client that reads slowly keeps no feedback waiting; whoever leaves later disturbs nobody."""
    in_flight = alone()
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
    in_flight = alone(0.05)
    with in_flight.hold("t", "a"):
        waiting = [await starts(in_flight) for _ in range(MAX_WAITING)]
        with pytest.raises(AnswerPending):
            await in_flight.settled("t", "a")
        assert not any(one.done() for one in waiting)
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in done} == {AnswerPending}
    await in_flight.settled("t", "a")


@pytest.mark.parametrize(
    ("promised_at", "is_pending"),
    [(None, False), (1e6, True), (1e6 - UNDER_WAY_S + 1, True), (1e6 - UNDER_WAY_S - 1, False), (1e6 + 60, True)],
    ids=["no promise", "just now", "long ago", "too long ago", "by a clock ahead of ours"],
)
def test_another_server_s_answer_may_be_under_way(promised_at: float | None, is_pending: bool) -> None:
    """As long as an answer can take; then there is none."""
    in_flight = InFlight(60.0, promised_at=lambda tenant, completion: promised_at, clock=lambda: 1e6)
    with pytest.raises(AnswerPending) if is_pending else contextlib.nullcontext():
        in_flight.require_no_promise("t", "a")


def test_the_only_server_knows_its_answers() -> None:
    """What it does not hold is not under way."""
    alone().require_no_promise("t", Signer(b"secret").completion_id("t"))

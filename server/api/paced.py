"""Server-sent events with a comment whenever there is nothing to send for a while, so that nobody hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from server import faults

HEARTBEAT = ": still working\n\n"
"""A comment: clients skip it."""


class Paced:
    """The events of `source`, which runs in a task of its own and never raises; for one reader.

    What the reader has not taken yet is kept: an answer's token limit bounds it. So a slow reader holds up neither the
    engine nor the commit. `aclose` ends the source and waits for its last deeds.
    """

    def __init__(self, source: AsyncGenerator[str], pause_s: float) -> None:
        self._source = source
        self._pause_s = pause_s
        self._events: asyncio.Queue[str | None] = asyncio.Queue()
        self._running: asyncio.Task[None] | None = None

    def __aiter__(self) -> Paced:
        return self

    async def __anext__(self) -> str:
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="stream")
        else:
            await faults.async_point("chat.after_first_byte")
        try:
            async with asyncio.timeout(self._pause_s):
                event = await self._events.get()
        except TimeoutError:
            return HEARTBEAT
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        if self._running is None:
            await self._source.aclose()
            return
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with aclosing(self._source):
                async for event in self._source:
                    self._events.put_nowait(event)
        finally:
            self._events.put_nowait(None)

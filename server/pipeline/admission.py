"""How many requests are in work at once, and how many may wait. The rest is told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.errors import Busy


class Admission:
    """A bounded room with a bounded queue before it."""

    def __init__(self, *, concurrent: int, queued: int) -> None:
        self._slots = asyncio.Semaphore(concurrent)
        self._capacity = concurrent + queued
        self.present = 0
        """Requests inside or waiting."""

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a place and hold it; raises `Busy` when the queue is full."""
        if self.present >= self._capacity:
            raise Busy("Too many requests are waiting; try again after the time in Retry-After.")
        self.present += 1
        try:
            async with self._slots:
                yield
        finally:
            self.present -= 1

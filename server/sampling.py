"""Looks, every so often, at what no request measures: the event loop's lag, the feed's head, the state's size.

The gauges say how things stood at the last look. What cannot be read keeps its last value; that the store does not
answer has a metric of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from server.errors import StorageUnavailable
from server.metrics import Metrics
from server.store import feed
from server.store.database import Database
from server.store.sizes import database_bytes

LAG_EVERY_S: Final = 0.5
LOOK_EVERY_S: Final = 10.0


class Sampler:
    """For the event loop that it is started on. `clock` gives UTC seconds since the epoch."""

    def __init__(
        self,
        metrics: Metrics,
        database: Database,
        *,
        directory: Path,
        aliases: Sequence[str],
        positions: Callable[[str], int | None],
        clock: Callable[[], float],
    ) -> None:
        """`positions`: how far an alias's learner has read the feed; None: nobody has asked yet."""
        self._metrics = metrics
        self._database = database
        self._directory = directory
        self._aliases = tuple(aliases)
        self._positions = positions
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(one(), name="sampling") for one in (self._watch_loop, self._look_again)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def look(self) -> None:
        """One look at disk and store."""
        with contextlib.suppress(OSError):
            usage = await asyncio.to_thread(shutil.disk_usage, self._directory)
            self._metrics.disk_free_bytes.set(usage.free)
            self._metrics.disk_bytes.set(usage.total)
        with contextlib.suppress(StorageUnavailable):
            await self._database.read(self._read_store)

    def _read_store(self, connection: Connection) -> None:
        self._metrics.store_bytes.set(database_bytes(connection))
        for alias in self._aliases:
            self._metrics.feed_head.labels(alias).set(feed.head(connection, alias))
            position = self._positions(alias)
            if position is not None:
                unread = feed.first_after(connection, alias, position)
                lag_s = 0.0 if unread is None else max(0.0, self._clock() - unread)
                self._metrics.feed_lag_seconds.labels(alias).set(lag_s)

    async def _look_again(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _watch_loop(self) -> None:
        while True:
            asked_s = time.monotonic()
            await asyncio.sleep(LAG_EVERY_S)
            self._metrics.loop_lag_seconds.observe(max(0.0, time.monotonic() - asked_s - LAG_EVERY_S))

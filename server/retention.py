"""What is kept too long goes, a little at a time: old groups, replies to Idempotency-Keys, images of nothing.

Each step is a transaction of at most `STEP` rows, so nobody waits long for one; a pass that is cut off is continued by
the next. Nothing expires by a clock that jumped (`server.store.clock`). Any number of servers may run it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from server import faults, images
from server.config import StoreConfig
from server.store import clock, erasure, idempotency
from server.store.blobs import BlobStore
from server.store.database import Database

log = logging.getLogger(__name__)

INTERVAL_S: Final = 3600.0
STEP: Final = 100
DAY_S: Final = 24 * 3600.0


class Retention:
    """The hourly pass. `now` gives UTC seconds since the epoch; `on_swept` is told how many images there were."""

    def __init__(
        self,
        config: StoreConfig,
        database: Database,
        blobs: BlobStore,
        now: Callable[[], float],
        on_swept: Callable[[int], None] = lambda images: None,
    ) -> None:
        self._config = config
        self._database = database
        self._blobs = blobs
        self._now = now
        self._on_swept = on_swept
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._loop(), name="retention")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _loop(self) -> None:
        while True:
            try:
                await self.run()
            except Exception:
                log.exception("retention failed; trying again in an hour")
            await asyncio.sleep(INTERVAL_S)

    async def run(self) -> int:
        """One pass; how many groups expired. Raises `StorageUnavailable`."""
        now = self._now()
        if not await self._database.write(lambda c: clock.believe(c, "retention", now)):
            log.warning("retention waits: the clock jumped")
            return 0
        before = now - self._config.idempotency_ttl_s
        while await self._database.write(lambda c: idempotency.purge(c, before, STEP)):
            pass
        expired = 0
        for tenant in await self._database.read(erasure.tenants):
            expired += await self._expire(tenant, now)
        self._on_swept(await images.sweep(self._database, self._blobs, now))
        if expired:
            log.info("groups expired", extra={"groups": expired})
        return expired

    async def _expire(self, tenant: str, now: float) -> int:
        days = self._config.tenant_retention_days.get(tenant, self._config.retention_days)
        if not days:
            return 0

        def step(connection: Connection) -> int:
            return erasure.expire(connection, tenant, now - days * DAY_S, STEP, now).groups

        expired = 0
        while done := await self._database.write(step):
            expired += done
            await faults.async_point("retention.half_done")
        return expired

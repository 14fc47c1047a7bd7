"""With several servers on one database: routing is read again and again, and not believed for longer than a lease.

A server's copy of routing is good for `lease_s` after the last read of the store *began*, so a move on another server
is followed everywhere within that time. A server that cannot read refuses chat (503) once its lease is over: it cannot
know whom it should ask. Reads happen three times in a lease, in the background; a request only waits for one when the
background has fallen behind.

A row that names adapters that are new here is taken over once their files are here and the replicas have been seen to
serve them (`arrive`). One server alone owns its database, its memory is the truth and there is no lease (`lease_s` 0).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import Connection

from server.adapters.replicas import routed
from server.adapters.routing import Router
from server.errors import StorageUnavailable
from server.store import routing as store
from server.store.database import Database
from server.store.records import Routing

log = logging.getLogger(__name__)

READS_PER_LEASE = 3


class RoutingLease:
    """Keeps a router's memory in step with the store. Safe for concurrent use on one event loop."""

    def __init__(
        self,
        database: Database,
        router: Router,
        aliases: Sequence[str],
        *,
        lease_s: float,
        arrive: Callable[[str], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`arrive(adapter)` gets an adapter ready that another server routed to. `clock`: monotonic seconds."""
        self._database = database
        self._router = router
        self._aliases = tuple(aliases)
        self._lease_s = lease_s
        self._arrive = arrive
        self._clock = clock
        self._good_until = 0.0
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_good(self) -> bool:
        return self._lease_s == 0 or self._clock() < self._good_until

    async def start(self) -> None:
        """Read once, then in the background; raises `StorageUnavailable`. After `Router.load`."""
        if self._lease_s and self._task is None:
            await self.renew()
            self._task = asyncio.create_task(self._run(), name="routing lease")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def renew(self) -> None:
        """Before a request is routed: at once while the lease is good, else after a read of the store.

        Raises `StorageUnavailable` when the store cannot be read in time.
        """
        if self.is_good:
            return
        try:
            async with asyncio.timeout(self._lease_s), self._reading:
                if not self.is_good:  # whoever held the lock has read
                    await self._read()
        except TimeoutError as error:
            raise StorageUnavailable("routing cannot be read: the lease is over") from error

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / READS_PER_LEASE)
            try:
                async with self._reading:
                    await self._read()
            except StorageUnavailable as error:
                log.warning("routing cannot be read: %s", error.cause)
            except Exception:
                log.exception("routing cannot be read")

    async def _read(self) -> None:
        began = self._clock()

        def run(connection: Connection) -> list[Routing]:
            found = [store.get_routing(connection, alias) for alias in self._aliases]
            return [routing for routing in found if routing is not None]

        for routing in await self._database.read(run):
            known = self._router.current(routing.alias)
            if routing.generation > known.generation:
                for adapter in sorted(routed(routing) - routed(known)):
                    await self._arrive(adapter)
                self._router.adopt(routing)
                log.info("%s: another server moved to generation %d", routing.alias, routing.generation)
        self._good_until = began + self._lease_s

"""Lets every replica forget the adapters that nobody needs any more.

Needed is what routing names, what is being examined or may still be asked for by its id, and ephemeral adapters that
are alive. Everything else that a replica lists, and whose name is one that this service gives, is unloaded once the
last request on it has ended. What a replica has loaded is asked of the replica, so restarts on either side need no
memory.

Nothing depends on it: the engine loads an adapter again when a request names it, so a failure costs memory at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Collection

from server.adapters.states import SERVABLE
from server.engine.pool import EnginePool, Member
from server.engine.port import EngineError
from server.errors import PlumblineError
from server.store.records import AdapterRecord, AdapterState

log = logging.getLogger(__name__)

KEPT = SERVABLE | {AdapterState.STAGED}
"""States in which an adapter stays loaded although no routing row names it."""
_OURS = re.compile(r"a\d{5,}-[0-9a-f]{12}")
"""Names that the registry gives; an engine may hold others' adapters."""

Find = Callable[[Collection[AdapterState]], Awaitable[list[AdapterRecord]]]


class Unloader:
    """The background task. `live` is asked at once before each unloading: what a move names is never unloaded."""

    def __init__(
        self, pool: EnginePool, *, live: Callable[[], Collection[str]], find: Find, pause_s: float = 15.0
    ) -> None:
        self._pool = pool
        self._live = live
        self._find = find
        self._pause_s = pause_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in a task of its own."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="unloading")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self.sweep()
            except PlumblineError as error:
                log.warning("adapters stay loaded: %s", error)
            except Exception:
                log.exception("adapters stay loaded")

    async def sweep(self) -> int:
        """Unload from each replica what can go; how many adapters went. Raises what `find` raises."""
        # What is loaded is asked first: an adapter that comes in between is not on the list, and not touched.
        loaded = [(member, await _loaded(member)) for member in self._pool.present]
        kept = {record.id for record in await self._find(KEPT)}
        gone = 0
        for member, names in loaded:
            for name in sorted(names - kept):
                if _OURS.fullmatch(name) and name not in self._live() and not member.requests[name]:
                    with contextlib.suppress(EngineError):
                        await member.engine.unload(name)
                        member.proven.discard(name)
                        gone += 1
        if gone:
            log.info("%d adapters were unloaded", gone)
        return gone


async def _loaded(member: Member) -> frozenset[str]:
    try:
        return await member.engine.loaded_adapters()
    except EngineError as error:
        log.warning("replica %d does not list its adapters: %s", member.number, error)
        return frozenset()

"""`EngineSupervisor`: keeps one engine ready, and knows whether it is.

Promises: READY only after a sampled token and a warm-up; an engine that exits, does not start in time or fails
three probes in a row is ended and started again after a growing pause; `stop()` leaves no process behind.
For an engine that runs elsewhere (`process` None) only the state is kept. Leaves out what the states mean
(`health`) and which requests wait meanwhile (the caller's). Used by the app, one for each engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from server.engine.health import EngineState, Event, Health, backoff_s
from server.engine.port import EngineError, Replica

_logger = logging.getLogger(__name__)

STARTING_PROBE_INTERVAL_S = 0.5


class Process(Protocol):
    """What the supervisor needs of an engine's process (`EngineProcess`)."""

    async def start(self) -> None:
        """Start it; raises `EngineError`."""
        ...

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        ...

    async def stop(self) -> None:
        """End it and its children; idempotent."""
        ...


class EngineSupervisor:
    """Watches one engine from `start()` to `stop()`. Use it on one event loop."""

    def __init__(
        self,
        engine: Replica,
        process: Process | None,
        *,
        probe_interval_s: float = 5.0,
        start_timeout_s: float = 600.0,
        on_ready: Callable[[], Awaitable[None]] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._process = process
        self._probe_interval_s = probe_interval_s
        self._starting_interval_s = min(STARTING_PROBE_INTERVAL_S, probe_interval_s)
        self._start_timeout_s = start_timeout_s
        self.on_ready = on_ready
        """Called, in a task of its own, each time the engine has become READY."""
        self._jitter = jitter
        self._health = Health()
        self._readies = 0
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._hook: asyncio.Task[None] | None = None

    @property
    def state(self) -> EngineState:
        return self._health.state

    @property
    def readies(self) -> int:
        """How often the engine became READY: what was found out about it holds until this has grown."""
        return self._readies

    @property
    def restarts(self) -> int:
        return self._health.restarts

    def start(self) -> None:
        """Begin, in a task of its own; a second call does nothing."""
        if self._task is None and self.state is not EngineState.STOPPED:
            self._task = asyncio.create_task(self._run(), name="engine supervisor")

    async def stop(self) -> None:
        """End watching, and the process if it is ours. Idempotent."""
        tasks = [task for task in (self._task, self._hook) if task is not None]
        self._task = self._hook = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._process is not None:
            await self._process.stop()
        await self._observe(Event.STOP)

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the engine is READY; False when it was stopped or the time is over."""
        final = {EngineState.READY, EngineState.STOPPED}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.state in final)
        return self.state is EngineState.READY

    async def _run(self) -> None:
        if self._process is None:
            await self._watch()
            return
        while True:
            await self._run_process_once(self._process)
            pause_s = backoff_s(self._health.attempts, self._jitter())
            _logger.warning("engine is down, restarting in %.1f s", pause_s)
            await asyncio.sleep(pause_s)
            await self._observe(Event.RESTARTED)

    async def _run_process_once(self, process: Process) -> None:
        """From its start to its end, whichever side ends it."""
        try:
            await process.start()
        except EngineError as error:
            _logger.error("engine cannot be started: %s", error)
            await self._observe(Event.EXITED)
            return
        exited = asyncio.create_task(process.wait())
        watched = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((exited, watched), return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                _logger.error("engine ended with exit code %d", exited.result())
        finally:
            exited.cancel()
            watched.cancel()
            await asyncio.gather(exited, watched, return_exceptions=True)
        await self._observe(Event.EXITED)
        await process.stop()

    async def _watch(self) -> None:
        """Probe until a process of ours is down; an engine that runs elsewhere is watched for ever."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._start_timeout_s
        while True:
            await self._observe(await self._probe())
            if self.state is EngineState.STARTING and loop.time() > deadline:
                await self._observe(Event.START_TIMED_OUT)
            if self.state is EngineState.DOWN and self._process is not None:
                return
            is_up = self.state is EngineState.READY
            await asyncio.sleep(self._probe_interval_s if is_up else self._starting_interval_s)

    async def _probe(self) -> Event:
        before = self._engine.progress
        if not await self._engine.is_ready():
            # A probe can wait behind long requests: an engine that answers others meanwhile is busy, not broken.
            is_busy = self.state is EngineState.READY and self._engine.progress != before
            return Event.PROBE_OK if is_busy else Event.PROBE_FAILED
        if self.state is not EngineState.READY:
            try:
                await self._engine.warm_up()
            except EngineError as error:
                _logger.warning("engine's warm-up failed: %s", error)
                return Event.PROBE_FAILED
        return Event.PROBE_OK

    async def _observe(self, event: Event) -> None:
        before, self._health = self._health, self._health.after(event)
        if before.state is self._health.state:
            return
        _logger.info("engine is %s", self.state)
        is_up = self.state is EngineState.READY
        self._readies += is_up
        async with self._changed:
            self._changed.notify_all()
        if is_up and self.on_ready is not None:
            self._restart_hook(self.on_ready)

    def _restart_hook(self, on_ready: Callable[[], Awaitable[None]]) -> None:
        if self._hook is not None:
            self._hook.cancel()
        self._hook = asyncio.create_task(_call(on_ready), name="engine became ready")


async def _call(on_ready: Callable[[], Awaitable[None]]) -> None:
    try:
        await on_ready()
    except Exception:
        _logger.exception("what had to follow the engine's start failed")

"""The supervisor with a fake engine and a fake process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from server.engine.fake import FakeEngine
from server.engine.health import EngineState
from server.engine.port import EngineError
from server.engine.supervisor import EngineSupervisor
from tests.server.engine.waiting import until

PATIENCE_S = 10.0


@dataclass
class FakeProcess:
    """Runs until `crash()` or `stop()`; the engine is ready while it runs, if `healthy`."""

    engine: FakeEngine
    starts: int = 0
    stops: int = 0
    healthy: bool = True
    fail_starts: int = 0
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self.starts += 1
        if self.starts <= self.fail_starts:
            raise EngineError("no such interpreter")
        self._ended = asyncio.Event()
        self.engine.ready = self.healthy

    async def wait(self) -> int:
        await self._ended.wait()
        return 1

    async def stop(self) -> None:
        self.stops += 1
        self.crash()

    def crash(self) -> None:
        self.engine.ready = False
        self._ended.set()


@asynccontextmanager
async def supervised(
    engine: FakeEngine,
    process: FakeProcess | None,
    *,
    start_timeout_s: float = 60.0,
    on_ready: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[EngineSupervisor]:
    supervisor = EngineSupervisor(
        engine,
        process,
        probe_interval_s=0.01,
        start_timeout_s=start_timeout_s,
        on_ready=on_ready,
        jitter=lambda: 0.99,
    )
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def test_it_starts_and_becomes_ready() -> None:
    """Starting, then ready once a token was generated; the hook is called."""
    engine, called = FakeEngine(ready=False), asyncio.Event()

    async def on_ready() -> None:
        called.set()

    async with supervised(engine, FakeProcess(engine), on_ready=on_ready) as supervisor:
        assert supervisor.state is EngineState.STARTING
        assert await supervisor.wait_ready(PATIENCE_S)
        await asyncio.wait_for(called.wait(), PATIENCE_S)
        assert supervisor.restarts == 0


async def test_a_crash_is_followed_by_a_restart() -> None:
    """Counted, ready again, and the hook is called again."""
    engine, readies = FakeEngine(ready=False), []
    process = FakeProcess(engine)

    async def on_ready() -> None:
        readies.append(process.starts)

    async with supervised(engine, process, on_ready=on_ready) as supervisor:
        assert await supervisor.wait_ready(PATIENCE_S)
        process.crash()
        await until(lambda: readies == [1, 2])
        assert supervisor.state is EngineState.READY
        assert supervisor.restarts == 1


async def test_a_hung_engine_is_ended_and_started_again() -> None:
    """Three failed probes, though the process lives and `/health` might say 200."""
    engine = FakeEngine(ready=False)
    process = FakeProcess(engine)
    async with supervised(engine, process) as supervisor:
        assert await supervisor.wait_ready(PATIENCE_S)
        engine.ready = False
        await until(lambda: supervisor.restarts == 1 and supervisor.state is EngineState.READY)
        assert process.stops >= 1


async def test_a_busy_engine_is_left_alone() -> None:
    """Probes that fail while other answers arrive are no reason to kill the work."""

    @dataclass
    class Busy(FakeEngine):
        async def is_ready(self) -> bool:
            self.progress += 1
            return self.ready

    engine = Busy(ready=False)
    process = FakeProcess(engine)
    async with supervised(engine, process) as supervisor:
        assert await supervisor.wait_ready(PATIENCE_S)
        engine.ready = False
        await asyncio.sleep(0.2)
        assert supervisor.state is EngineState.READY
        assert supervisor.restarts == 0


async def test_a_start_that_never_gets_ready_is_tried_again() -> None:
    """After the start's own time-out."""
    engine = FakeEngine(ready=False)
    process = FakeProcess(engine, healthy=False)
    async with supervised(engine, process, start_timeout_s=0.05) as supervisor:
        await until(lambda: supervisor.restarts >= 1)
        process.healthy = True
        assert await supervisor.wait_ready(PATIENCE_S)


async def test_a_process_that_cannot_start_is_tried_again() -> None:
    """A missing interpreter or a full disk may come right."""
    engine = FakeEngine(ready=False)
    process = FakeProcess(engine, fail_starts=2)
    async with supervised(engine, process) as supervisor:
        assert await supervisor.wait_ready(PATIENCE_S)
        assert (process.starts, supervisor.restarts) == (3, 2)


async def test_an_engine_elsewhere_is_only_watched() -> None:
    """Down and up again by itself, without a restart of ours."""
    engine = FakeEngine()
    async with supervised(engine, None) as supervisor:
        assert await supervisor.wait_ready(PATIENCE_S)
        engine.ready = False
        await until(lambda: supervisor.state is EngineState.DOWN)
        engine.ready = True
        await until(lambda: supervisor.state is EngineState.READY)
        assert supervisor.restarts == 0


async def test_a_failing_hook_does_not_harm() -> None:
    """It is logged; the engine is watched on."""

    async def on_ready() -> None:
        raise RuntimeError("broken hook")

    engine = FakeEngine(ready=False)
    process = FakeProcess(engine)
    async with supervised(engine, process, on_ready=on_ready) as supervisor:
        assert await supervisor.wait_ready(PATIENCE_S)
        process.crash()
        await until(lambda: supervisor.restarts == 1 and supervisor.state is EngineState.READY)


async def test_stop_is_final_and_idempotent() -> None:
    """Stopped twice, or before the start: no process is left, waiting ends, and it cannot be started again."""
    engine = FakeEngine(ready=False)
    process = FakeProcess(engine, healthy=False)
    async with supervised(engine, process) as supervisor:
        waiting = asyncio.create_task(supervisor.wait_ready(PATIENCE_S))
        await until(lambda: process.starts == 1)
        await supervisor.stop()
        await supervisor.stop()
        assert not await waiting
        assert supervisor.state is EngineState.STOPPED
        supervisor.start()
        await asyncio.sleep(0.05)
        assert process.starts == 1


async def test_waiting_has_a_deadline() -> None:
    """False, and no error, when the engine is not ready in time."""
    engine = FakeEngine(ready=False)
    async with supervised(engine, FakeProcess(engine, healthy=False)) as supervisor:
        assert not await supervisor.wait_ready(0.05)

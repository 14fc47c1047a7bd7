"""A real vLLM process under the supervisor: killed, brought back, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from reward.types import Message, Prompt
from server.engine.client import VllmEngine
from server.engine.health import EngineState
from server.engine.launcher import EngineProcess
from server.engine.port import EngineError, Sampling
from server.engine.supervisor import EngineSupervisor
from tests.engine_fixture import START_TIMEOUT_S, engine_config, model_directory, write_random_adapter
from tests.server.engine.waiting import until

PROMPT = Prompt((Message("user", ("What is it?",)),))

SERVER = """
import asyncio, sys
from pathlib import Path
from server.engine.launcher import EngineProcess
from tests.engine_fixture import engine_config

async def main():
    root = Path(sys.argv[2])
    process = EngineProcess(engine_config(sys.argv[1]), root / "adapters", root)
    await process.start()
    print(process.pid, process.url, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def members(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, process_group = rest.split()[:3]
        if int(process_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.engine
@pytest.mark.slow
async def test_a_killed_engine_comes_back(tmp_path: Path) -> None:
    """Kill -9 of the API process, then of the engine core alone: ready again each time, nothing left behind."""
    model = str(model_directory())
    process = EngineProcess(engine_config(model), tmp_path / "adapters", tmp_path)
    engine = VllmEngine(process.url, model, probe_timeout_s=60)
    supervisor = EngineSupervisor(engine, process, probe_interval_s=0.5, start_timeout_s=START_TIMEOUT_S)
    supervisor.start()
    try:
        assert await supervisor.wait_ready(START_TIMEOUT_S), process.log.read_text()[-4000:]
        for restarts, victim_of in ((1, min), (2, max)):
            group = process.pid
            assert group is not None
            running = members(group)
            assert len(running) >= 2
            os.kill(victim_of(running), signal.SIGKILL)
            await until(lambda: supervisor.state is not EngineState.READY, 60)
            assert await supervisor.wait_ready(START_TIMEOUT_S)
            assert supervisor.restarts == restarts
            assert members(group) == []
            generation = await engine.generate(model, PROMPT, 2, Sampling(max_tokens=4))
            assert len(generation.candidates) == 2
        group = process.pid
    finally:
        await supervisor.stop()
    assert group is not None
    assert members(group) == []
    with pytest.raises(EngineError):
        await engine.generate(model, PROMPT, 1, Sampling(max_tokens=1))
    await engine.close()


@pytest.mark.engine
@pytest.mark.slow
async def test_an_engine_dies_with_its_server(tmp_path: Path) -> None:
    """Kill -9 of the server: the API process and the engine core end too."""
    model = str(model_directory())
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, model, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        pid, url = (await server.stdout.readline()).decode().split()
        engine = VllmEngine(url, model)
        supervisor = EngineSupervisor(engine, None)
        supervisor.start()
        assert await supervisor.wait_ready(START_TIMEOUT_S)
        await supervisor.stop()
        await engine.close()
        assert len(members(int(pid))) >= 2
    finally:
        server.kill()
        await server.wait()
    await until(lambda: not members(int(pid)), 60)


@pytest.mark.engine
@pytest.mark.slow
async def test_base_stays_base_however_old_a_cpu_engine_is(tmp_path: Path) -> None:
    """Three times as many adapters as there are slots: requests for base that share their batches are exact."""
    model = str(model_directory())
    config = engine_config(model, cpu_lora_slots=4, max_loras=2)
    process = EngineProcess(config, tmp_path / "adapters", tmp_path)
    await process.start()
    engine = VllmEngine(process.url, model, probe_timeout_s=60, kept_adapter=lambda: process.kept_adapter)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await engine.is_ready():  # noqa: ASYNC110 - the state of another process
                await asyncio.sleep(0.3)
        alone = await engine.score(model, PROMPT, "a red cup")
        for number in range(12):
            adapter = f"a{number:05d}-000000000000"
            write_random_adapter(tmp_path / "adapters", adapter, model, 0.3, number)
            own, *base = await asyncio.gather(
                engine.score(adapter, PROMPT, "a red cup"),
                *(engine.score(model, PROMPT, "a red cup") for _ in range(3)),
            )
            assert abs(own.total - alone.total) > 1
            assert all(one.logprobs == pytest.approx(alone.logprobs, abs=1e-4) for one in base)
            assert await engine.is_ready()
    finally:
        await engine.close()
        await process.stop()

"""Two real engines behind one server: one of them dies under load, and adapters move meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clients.toml import to_toml
from server.engine.launcher import EngineProcess
from tests.e2e.conftest import Service, settings, upload_random_adapter, wait_for_state
from tests.e2e.test_swap import Crowd
from tests.engine_fixture import EngineSession, background_loop, call, engine_config

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@dataclasses.dataclass
class Second:
    """Another engine on the session's adapters; it can be killed and started again on its port."""

    process: EngineProcess
    loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        call(self.loop, self.process.start())

    def kill(self) -> None:
        assert self.process.pid is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        call(self.loop, self.process.wait())


@pytest.fixture
def second(engine_session: EngineSession, tmp_path: Path) -> Iterator[Second]:
    process = EngineProcess(engine_config(engine_session.model), engine_session.adapters_dir, tmp_path)
    with background_loop() as loop:
        one = Second(process, loop)
        one.start()
        try:
            yield one
        finally:
            call(loop, process.stop())


@pytest.fixture
def service(engine_session: EngineSession, second: Second, tmp_path: Path) -> Iterator[Service]:
    tree = settings(engine_session, engine_session.adapters_dir.parent)
    tree["engine"]["urls"] = [engine_session.url, second.process.url]
    tree["aliases"][0] |= {"best_of": 1, "rollout": {"automatic": False}}
    config_file = tmp_path / "plumbline.toml"
    config_file.write_text(to_toml(tree))
    http = tree["http"]
    one = Service(
        config_file,
        f"http://127.0.0.1:{http['port']}",
        f"http://127.0.0.1:{http['metrics_port']}/metrics",
        tmp_path / "server.log",
    )
    one.start()
    try:
        wait_for_standing(one, "in")
        yield one
    finally:
        one.stop()


def wait_for_standing(service: Service, *standings: str, timeout_s: float = 300.0) -> None:
    """Until the second replica stands so."""
    deadline = time.monotonic() + timeout_s
    while (found := httpx.get(f"{service.url}/readyz", timeout=30).json()["detail"]["replica 1"]) not in standings:
        assert time.monotonic() < deadline, f"{found}: {service.log.read_text()[-2000:]}"
        time.sleep(0.1)


async def test_an_engine_that_dies_under_load_costs_no_answer(
    service: Service, second: Second, engine_session: EngineSession, tmp_path: Path
) -> None:
    """Killed with -9 while it answers, and a promotion meanwhile; back in only after it was proven with the adapter."""
    async with Crowd(service) as crowd:
        await asyncio.sleep(2.0)
        await asyncio.to_thread(second.kill)
        await asyncio.to_thread(wait_for_standing, service, "unreachable", "not_ready")
        adapter = await asyncio.to_thread(upload_random_adapter, service, engine_session, tmp_path, seed=301, scale=0.3)
        await wait_for_state(service, adapter, "gated")
        with service.operator() as operator:
            operator.move_adapter(adapter, "promote")
        await asyncio.to_thread(second.start)
        await asyncio.to_thread(wait_for_standing, service, "in")
        await asyncio.sleep(2.0)
    assert crowd.failures == []
    assert {text for by, _, text in crowd.answers[-8:]} <= {text for by, _, text in crowd.answers if by == adapter}
    assert "replica 1 is in, proven with 1 adapters" in service.log.read_text()
    async with httpx.AsyncClient() as client:
        assert 'plumbline_replica_in{replica="1"} 1.0' in (await client.get(service.metrics_url)).text
        assert adapter in (await client.get(f"{second.process.url}/v1/models")).text

"""PostgreSQL goes away in the middle: clear 503s, nothing acknowledged lost, and back without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks._postgres import Cluster
from benchmarks._postgres import running as new_cluster
from server import faults
from server.installation import StartError
from server.integrity import check_state
from tests.api.conftest import Stack, config_for
from tests.faults.service import Ledger, assert_kept, running, settle, talk

OURS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'plumbline'"
SLOW_SYNC = "store.sync=delay:30"
"""So that transactions are open when the connection goes."""


async def work(stack: Stack, ledger: Ledger, until: asyncio.Event) -> None:
    """Four clients at once; refusals must be clear."""

    async def one(number: int) -> None:
        turn = 0
        while not until.is_set():
            await talk(stack.client, ledger, f"{number}-{turn}")
            turn += 1

    await asyncio.gather(*(one(number) for number in range(4)))


async def ends_whole(stack: Stack, ledger: Ledger) -> None:
    """It works again, every refusal was clear, every acknowledgement holds."""
    for _ in range(200):
        if (await stack.client.get("/readyz")).status_code == 200:
            break
        await asyncio.sleep(0.05)
    for response in ledger.refused:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_unavailable"), response.text
        assert int(response.headers["retry-after"]) > 0
    await settle(stack.client, ledger)
    services = stack.services
    await services.database.read(lambda c: assert_kept(c, ledger))
    assert await check_state(services.database, services.blobs, services.registry, now=time.time()) == []


async def test_connections_cut_in_mid_commit(postgres: Cluster, tmp_path: Path, ledger: Ledger) -> None:
    """Whether the commit went through is not known: who repeats the call with its key gets it once."""
    url = postgres.create()
    until = asyncio.Event()
    async with running(config_for(tmp_path, url=url)) as stack:
        with faults.armed(SLOW_SYNC):
            working = asyncio.create_task(work(stack, ledger, until))
            for _ in range(5):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(postgres.sql, "postgres", OURS)
            await asyncio.sleep(0.3)
            until.set()
            await working
        assert ledger.refused, "no connection was in use when it was cut"
        assert ledger.acknowledged
        await ends_whole(stack, ledger)
    postgres.drop(url)


@pytest.fixture
def own_cluster(postgres: Cluster) -> Iterator[Cluster]:
    """One that may be stopped: nobody else uses it."""
    with new_cluster(postgres.binaries) as cluster:
        yield cluster


@pytest.mark.slow
async def test_a_server_that_crashes(own_cluster: Cluster, tmp_path: Path, ledger: Ledger) -> None:
    """An immediate stop, some seconds without it, and its recovery."""
    until = asyncio.Event()
    async with running(config_for(tmp_path, url=own_cluster.create())) as stack:
        with faults.armed(SLOW_SYNC):
            working = asyncio.create_task(work(stack, ledger, until))
            for _ in range(2):
                await asyncio.sleep(1.0)
                await asyncio.to_thread(own_cluster.stop, "immediate")
                await asyncio.sleep(1.0)
                assert (await stack.client.get("/readyz")).status_code == 503
                await asyncio.to_thread(own_cluster.start)
            await asyncio.sleep(1.0)
            until.set()
            await working
        assert ledger.refused
        assert ledger.acknowledged
        await ends_whole(stack, ledger)


async def test_without_a_server_the_start_is_refused(tmp_path: Path) -> None:
    """One line."""
    config = config_for(tmp_path, url="postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StartError, match="database"):
        async with running(config):
            pass

"""Fail the Nth storage operation, N = 1, 2, 3 … until none fails; each N once, and from then on for ever.

The application runs in this process on the fake engine. After each failure: what was acknowledged is there, once, and
whole; who was refused got a 503 with Retry-After; a failure that passes is forgotten with the next request, one that
lasts takes readiness away until it ends, without a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from server import faults
from server.faults import Plan
from server.integrity import check_state
from tests.api.conftest import CHAT, Stack, chat_body, config_for
from tests.faults import disk
from tests.faults.service import Ledger, assert_kept, running, settle, talk

POINTS = "|".join(
    ["store.*_commit", "store.sync", "file.*", "chat.before_insert", "chat.after_insert", "feedback.before_commit"]
)
OPERATIONS = "db.*|wal.*"
Armed = Callable[[str], AbstractContextManager[Plan]]

MOST = 2000
"""More operations than any of these tests does."""


async def works(stack: Stack, ledger: Ledger, name: str) -> None:
    """A good request does what it should, and everything that was acknowledged before is still there."""
    known = len(ledger.signals)
    await settle(stack.client, ledger)
    await talk(stack.client, ledger, name)
    assert len(ledger.signals) > known, ledger.refused[-1].text
    assert (await stack.client.get("/readyz")).status_code == 200
    await stack.services.database.read(lambda c: assert_kept(c, ledger))


def assert_refusals_are_clear(refused: list[httpx.Response]) -> None:
    """The reply says what is the matter, that it may pass, and nothing of what happened inside."""
    for response in refused:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_unavailable"), response.text
        assert int(response.headers["retry-after"]) > 0
        assert "injected" not in response.text
        assert "disk" not in response.text
    refused.clear()


async def fail_at(stack: Stack, armed: Armed, where: str, step: int, *, for_ever: bool) -> None:
    """The loop. `step` 1 takes every operation."""
    everything = Ledger()
    for n in range(1, MOST, step):
        ledger = Ledger()
        with armed(f"{where}=fail:EIO@{n}{'+' if for_ever else ''}") as plan:
            for turn in range(3):
                await talk(stack.client, ledger, f"{n}-{turn}", stream=turn == 1)
            if for_ever and plan.acted:
                response = await stack.client.post(CHAT, json=chat_body())
                assert response.status_code == 503
                if not stack.services.database.is_healthy:
                    assert (await stack.client.get("/readyz")).status_code == 503
            assert_refusals_are_clear(ledger.refused)
        await works(stack, ledger, f"{n}-afterwards")
        everything.add(ledger)
        if not plan.acted:
            break
    else:
        pytest.fail("it never came through")
    services = stack.services
    await services.database.read(lambda c: assert_kept(c, everything))
    assert await check_state(services.database, services.blobs, services.registry, now=time.time()) == []


FOR_EVER = pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
@FOR_EVER
async def test_the_nth_point_fails(tmp_path: Path, store_url: str, for_ever: bool, step: int) -> None:
    """Wherever our own code touches the disk or the database."""
    async with running(config_for(tmp_path, url=store_url)) as stack:
        await fail_at(stack, faults.armed, POINTS, step, for_ever=for_ever)


@pytest.mark.skipif(not disk.available(), reason="sqlite3 is not linked to a shared library")
@pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.slow)])
@FOR_EVER
async def test_the_nth_disk_operation_fails(tmp_path: Path, for_ever: bool, step: int) -> None:
    """Every write, half write, sync and truncation that SQLite does."""
    installed = disk.install()
    async with running(config_for(tmp_path)) as stack:
        await fail_at(stack, installed.armed, OPERATIONS, step, for_ever=for_ever)

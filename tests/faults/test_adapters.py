"""Kill -9 at every point of an adapter's life (K13 to K19), and again while it recovers.

A learner uploads, an operator moves, people chat meanwhile. After the restart whoever has no reply looks where things
stand and goes on: the adapter is there once and whole or not at all, routing is the one before or the one after, no
answer ever came from an adapter that was not verified (I1, I2, I3, I4, I5), and the check of the state finds nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx
import pytest

from tests.faults.service import RESTART_LIMIT_S, Ledger, Service, assert_all_there, settle, use
from tests.faults.story import ALIAS, SETTINGS, Told, assert_ended_well, tell

POINTS = {
    "K13 files written, not in place": "adapter.before_rename=kill@1",
    "K13 while another serves": "adapter.before_rename=kill@2",
    "K14 in place, no row": "adapter.after_rename=kill@1",
    "K14 while another serves": "adapter.after_rename=kill@2",
    "K15 staged, not verified": "adapter.after_commit=kill@1",
    "K17 the engine has it, not verified": "adapter.before_advance=kill@1",
    "K17 verified, not gated": "adapter.before_advance=kill@2",
    "K16 the canary's row is there, the engine has nothing": "move.after_commit=kill@1",
    "K17 the canary serves, it is not promoted": "move.before_commit=kill@4",
    "K18 the new one serves, the old one is still loaded": "move.after_commit=kill@4",
    "K19 in the middle of a rollback": "move.before_commit=kill@5",
    "K19 rolled back, nobody knows": "move.after_commit=kill@5",
    "K13 in the middle of a file": "upload.write=kill@2",
}
"""Of the story's moves the first is a canary, the fourth the second promotion, the fifth the rollback."""
QUICK = {"K14 in place, no row", "K19 in the middle of a rollback"}


@pytest.fixture
def service(store_url: str, tmp_path: Path) -> Service:
    """In place of the usual one: with adapters of the fake engine, and an operator who decides."""
    return Service(tmp_path, store_url, settings=SETTINGS, alias=ALIAS)


@pytest.fixture(autouse=True)
def ended(service: Service) -> object:
    yield
    service.kill()


async def live(service: Service, ledger: Ledger, told: Told, *, life: int) -> bool:
    """The story, and people who chat meanwhile; whether it came to its end."""
    chatting = asyncio.create_task(use(service, ledger, clients=2, offset=10 * life))
    try:
        async with service.client() as client:
            await tell(client, told)
    except httpx.TransportError:
        await chatting
        return False
    chatting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await chatting
    return True


async def goes_on(service: Service, ledger: Ledger, told: Told) -> None:
    """A start in time, the story to its end, and everything that was ever acknowledged is there."""
    assert service.start() < RESTART_LIMIT_S
    assert await live(service, ledger, told, life=9)
    async with service.client() as client:
        await settle(client, ledger)
    assert service.stop() == 0
    await assert_all_there(service, ledger)
    await assert_ended_well(service, told)


EACH = pytest.mark.parametrize(
    "point",
    [pytest.param(at, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, at in POINTS.items()],
)


@EACH
async def test_killed_in_an_adapters_life(service: Service, ledger: Ledger, point: str) -> None:
    """Whatever was being done is done, or not at all, and goes on."""
    told = Told()
    service.start(at=point)
    assert not await live(service, ledger, told, life=1)
    service.wait_until_killed()
    await goes_on(service, ledger, told)


@pytest.mark.slow
@pytest.mark.parametrize("point", [pytest.param(at, id=name) for name, at in POINTS.items()])
async def test_killed_again_while_it_recovers(service: Service, ledger: Ledger, point: str) -> None:
    """A second and a third death, while leftovers are cleared or at the first commit after it, change nothing."""
    told = Told()
    service.start(at=point)
    assert not await live(service, ledger, told, life=1)
    service.wait_until_killed()
    for again in ("adapter.clearing=kill@1,store.before_commit=kill@1", "store.after_commit=kill@1"):
        service.launch(at=again)
        service.wait_until_killed()
    await goes_on(service, ledger, told)


@pytest.mark.slow
async def test_killed_at_each_point_in_turn(service: Service, ledger: Ledger) -> None:
    """One installation that dies at every point of its adapters' life, one after the other, and comes to its end."""
    told = Told()
    for life, point in enumerate(POINTS.values()):
        at = f"{point.rpartition('@')[0]}@1"
        if not service.dies(service.launch(at=at)) and await live(service, ledger, told, life=life):
            service.kill()
    await goes_on(service, ledger, told)

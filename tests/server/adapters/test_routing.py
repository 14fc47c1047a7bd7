"""Assignment, moves, concurrency, and the way back."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest

from server import faults
from server.adapters.routing import Order, Router
from server.errors import BadRequest, NotFound, StaleGeneration, StorageUnavailable
from server.store import audit
from server.store.records import AdapterRecord
from server.store.records import AdapterState as S
from server.wire.base import BASE
from tests.server.adapters.support import ALIAS, OPERATOR, SERVER, World, open_world, until


def forced(order: Order = OPERATOR) -> Order:
    return dataclasses.replace(order, force=True)


async def test_a_new_alias_is_served_by_base(world: World) -> None:
    """There is always somebody who serves."""
    assignment = world.router.assign(ALIAS, "somebody")
    assert (assignment.adapter, assignment.generation, assignment.is_canary) == (BASE, 0, False)
    with pytest.raises(NotFound):
        world.router.assign("nobody", None)


async def test_a_canary_gets_its_share_of_the_users_and_keeps_them(world: World) -> None:
    """Users are assigned by a hash that the canary salts: sticky, at the right share, and other users next time."""
    users = [f"user-{number}" for number in range(4000)]
    first, second = await world.gated(), await world.gated()
    await world.router.start_canary(first, 0.2, OPERATOR)
    mine = {user for user in users if world.router.assign(ALIAS, user).is_canary}
    assert 0.17 < len(mine) / len(users) < 0.23
    assert mine == {user for user in users if world.router.assign(ALIAS, user).adapter == first}
    await world.router.start_canary(first, 0.4, OPERATOR)  # the same canary, a larger share
    assert mine < {user for user in users if world.router.assign(ALIAS, user).is_canary}
    await world.router.reject(first, OPERATOR)
    await world.router.start_canary(second, 0.2, OPERATOR)
    theirs = {user for user in users if world.router.assign(ALIAS, user).is_canary}
    assert len(mine & theirs) / len(mine) < 0.3


async def test_requests_without_a_user_are_drawn_one_by_one(world: World) -> None:
    """Each gets the canary with the probability of its share."""
    await world.router.start_canary(await world.gated(), 0.3, OPERATOR)
    drawn = sum(world.router.assign(ALIAS, None).is_canary for _ in range(4000))
    assert 0.26 < drawn / 4000 < 0.34


async def test_every_move_grows_the_generation_by_one(world: World) -> None:
    """And each leaves one entry in the audit trail, with what stood before and after."""
    adapter = await world.gated()
    assert (await world.router.start_canary(adapter, 0.2, OPERATOR)).generation == 1
    assert (await world.router.promote(adapter, OPERATOR)).generation == 2
    assert (await world.router.rollback(ALIAS, OPERATOR)).generation == 3
    assert (await world.router.undo(ALIAS, OPERATOR)).generation == 4
    entries = await world.database.read(lambda c: audit.newest(c, 10))
    moves = [entry for entry in entries if "after" in entry.detail]
    assert [entry.action for entry in moves] == ["undo", "rollback", "promote", "canary"]
    assert [entry.detail["after"]["generation"] for entry in moves] == [4, 3, 2, 1]
    await world.check()


async def test_promotion_keeps_the_old_one_as_the_way_back(world: World) -> None:
    """The old active adapter is retired and becomes `previous`."""
    first, second = await world.active(), await world.active()
    routing = world.router.current(ALIAS)
    assert (routing.active, routing.previous) == (second, first)
    assert await world.states() == {first: S.RETIRED, second: S.ACTIVE}
    assert world.router.assign(ALIAS, "somebody").adapter == second


async def test_of_concurrent_moves_exactly_one_wins(world: World) -> None:
    """Two promotions and a rollback of operators who saw the same: one wins, the others are late."""
    await world.active()
    candidates = [await world.gated(), await world.gated()]
    order = Order("an operator", expect_generation=world.router.current(ALIAS).generation)
    results = await asyncio.gather(
        *(world.router.promote(one, order) for one in candidates),
        world.router.rollback(ALIAS, order),
        return_exceptions=True,
    )
    assert sum(isinstance(result, StaleGeneration) for result in results) == 2
    assert world.router.current(ALIAS).generation == 2
    await world.check()


async def test_what_is_active_is_not_promoted_again(world: World) -> None:
    """It would become its own way back."""
    adapter = await world.active()
    for order in (OPERATOR, SERVER, forced()):
        with pytest.raises(BadRequest, match="active already"):
            await world.router.promote(adapter, order)
    assert world.router.current(ALIAS).previous == BASE
    with pytest.raises(BadRequest):  # for good, so it is no 412
        await world.router.reject(adapter, OPERATOR)


async def test_declining_a_canary_never_ends_another(world: World) -> None:
    """Between the operator's look and the move one canary made room for the next."""
    first, second = await world.gated(), await world.gated()
    await world.router.start_canary(first, 0.2, OPERATOR)
    other = Router(world.database, [ALIAS], clock=world.clock, verify=world.registry.verify)
    await other.load()
    looked = await world.registry.get(first)
    await other.reject(first, OPERATOR)
    await other.start_canary(second, 0.2, OPERATOR)
    await world.router.load()
    world.router._record = lambda adapter: _already(looked)  # type: ignore[method-assign]
    with pytest.raises(StaleGeneration):
        await world.router.reject(first, OPERATOR)
    assert world.router.current(ALIAS).canary == second


async def _already(record: AdapterRecord) -> AdapterRecord:
    return record


async def test_memory_follows_a_move_of_unknown_outcome(world: World) -> None:
    """The caller got a 503, the row moved: requests follow it as soon as the database answers."""
    adapter = await world.gated()
    with faults.armed("store.after_commit=fail@1"), pytest.raises(StorageUnavailable):
        await world.router.promote(adapter, OPERATOR)
    await until(lambda: world.router.assign(ALIAS, "somebody").adapter == adapter)
    assert world.router.current(ALIAS).generation == 1
    with faults.armed("store.before_commit=fail@1"), pytest.raises(StorageUnavailable):
        await world.router.rollback(ALIAS, OPERATOR)
    await until(lambda: world.database.is_healthy)
    assert world.router.current(ALIAS).active == adapter
    await world.check()


async def test_a_stale_view_is_refused(world: World) -> None:
    """`expect_generation` of the past or the future: 412, and nothing has moved."""
    adapter = await world.gated()
    for generation in (1, 7):
        order = Order("an operator", expect_generation=generation)
        for move in (world.router.promote(adapter, order), world.router.reject(adapter, order)):
            with pytest.raises(StaleGeneration):
                await move
    assert await world.state(adapter) is S.GATED
    assert world.router.current(ALIAS).generation == 0


async def test_another_servers_move_is_seen_after_the_first_refusal(world: World) -> None:
    """Routing is the store's: a router whose copy is old is refused once, and then knows."""
    other = Router(world.database, [ALIAS], clock=world.clock, verify=world.registry.verify)
    await other.load()
    await world.active()
    adapter = await world.gated()
    with pytest.raises(StaleGeneration):
        await other.promote(adapter, OPERATOR)
    assert other.current(ALIAS) == world.router.current(ALIAS)
    await other.promote(adapter, OPERATOR)
    await other.load()
    assert other.assign(ALIAS, None).adapter == adapter


async def test_rollback_walks_back_to_base_and_never_forward(world: World) -> None:
    """Each rollback goes one good adapter further back; what was rolled back is never a target."""
    first, second, third = [await world.active() for _ in range(3)]
    assert (await world.router.rollback(ALIAS, OPERATOR)).active == second
    assert world.router.current(ALIAS).previous == first
    assert (await world.router.rollback(ALIAS, OPERATOR)).active == first
    assert world.router.current(ALIAS).previous == BASE
    last = await world.router.rollback(ALIAS, OPERATOR)
    assert (last.active, last.previous) == (BASE, None)
    assert await world.states() == dict.fromkeys((first, second, third), S.ROLLED_BACK)
    with pytest.raises(BadRequest):
        await world.router.rollback(ALIAS, OPERATOR)
    assert world.router.assign(ALIAS, "somebody").adapter == BASE
    await world.check()


async def test_rollback_goes_where_routing_came_from(world: World) -> None:
    """After base was active in between, the way back leads to base, not to an older adapter."""
    await world.active()
    await world.router.rollback(ALIAS, OPERATOR)
    second = await world.active()
    assert world.router.current(ALIAS).previous == BASE
    assert (await world.router.rollback(ALIAS, OPERATOR)).active == BASE
    assert await world.state(second) is S.ROLLED_BACK


async def test_undo_brings_back_what_the_rollback_took_out(world: World) -> None:
    """Once, and only while what the rollback put in place still is active."""
    first, second = await world.active(), await world.active()
    with pytest.raises(BadRequest):
        await world.router.undo(ALIAS, OPERATOR)
    await world.router.rollback(ALIAS, OPERATOR)
    routing = await world.router.undo(ALIAS, OPERATOR)
    assert (routing.active, routing.previous) == (second, first)
    assert await world.states() == {first: S.RETIRED, second: S.ACTIVE}
    with pytest.raises(BadRequest):
        await world.router.undo(ALIAS, OPERATOR)
    await world.router.rollback(ALIAS, OPERATOR)
    await world.active()
    with pytest.raises(BadRequest):
        await world.router.undo(ALIAS, OPERATOR)
    await world.check()


async def test_a_rollback_ends_the_canary_too(world: World) -> None:
    """Its evidence was against the adapter that is gone; an undo does not bring it back."""
    await world.active()
    canary = await world.gated()
    await world.router.start_canary(canary, 0.2, OPERATOR)
    assert (await world.router.rollback(ALIAS, OPERATOR)).canary is None
    assert await world.state(canary) is S.ROLLED_BACK
    assert (await world.router.undo(ALIAS, OPERATOR)).canary is None
    await world.check()


async def test_with_base_active_a_rollback_ends_the_canary(world: World) -> None:
    """Base takes all traffic; there is no active adapter to undo to."""
    canary = await world.gated()
    await world.router.start_canary(canary, 0.2, OPERATOR)
    assert (await world.router.rollback(ALIAS, OPERATOR)).canary is None
    with pytest.raises(BadRequest):
        await world.router.undo(ALIAS, OPERATOR)


async def test_a_damaged_adapter_is_no_way_back(world: World) -> None:
    """The rollback goes past what is missing to the next good one, at the end to base."""
    first, second, third = [await world.active() for _ in range(3)]
    (world.registry.path(second) / "adapter_model.safetensors").unlink()
    assert (await world.router.rollback(ALIAS, OPERATOR)).active == first
    shutil.rmtree(world.registry.path(third))
    with pytest.raises(BadRequest) as caught:
        await world.router.undo(ALIAS, OPERATOR)
    assert caught.value.code == "adapter_damaged"


async def test_quarantine_of_the_active_one_routes_away_first(world: World) -> None:
    """In one move: the previous one serves, the canary is ended, the quarantined one never comes back."""
    first, second = await world.active(), await world.active()
    canary = await world.gated(parent=second)
    await world.router.start_canary(canary, 0.2, OPERATOR)
    routing, _ = await world.router.quarantine(second, OPERATOR)
    assert (routing.active, routing.canary, routing.previous) == (first, None, BASE)
    assert await world.states() == {first: S.ACTIVE, second: S.QUARANTINED, canary: S.ROLLED_BACK}
    for move in (world.router.promote(second, forced()), world.router.start_canary(second, 0.2, forced())):
        with pytest.raises(BadRequest):
            await move
    await world.check()


async def test_quarantine_reaches_every_place(world: World) -> None:
    """Previous, canary, and adapters that nobody routes to."""
    first, second = await world.active(), await world.active()
    canary, waiting = await world.gated(), await world.gated()
    await world.router.start_canary(canary, 0.2, OPERATOR)
    assert (await world.router.quarantine(first, OPERATOR))[0].previous == BASE
    assert (await world.router.quarantine(canary, OPERATOR))[0].canary is None
    generation = world.router.current(ALIAS).generation
    assert (await world.router.quarantine(waiting, OPERATOR))[0].generation == generation
    states = await world.states()
    assert states == {first: S.QUARANTINED, second: S.ACTIVE, canary: S.QUARANTINED, waiting: S.QUARANTINED}
    assert (await world.router.rollback(ALIAS, OPERATOR)).active == BASE
    with pytest.raises(BadRequest):
        await world.router.quarantine(waiting, OPERATOR)


async def test_there_is_one_canary_at_a_time(world: World) -> None:
    """A rival neither joins nor passes it."""
    canary, rival = await world.gated(), await world.gated()
    await world.router.start_canary(canary, 0.2, OPERATOR)
    for move in (world.router.start_canary(rival, 0.2, OPERATOR), world.router.promote(rival, OPERATOR)):
        with pytest.raises(BadRequest) as caught:
            await move
        assert caught.value.code == "canary_running"


async def test_a_rejected_adapter_needs_force(world: World) -> None:
    """Operators can bring it to canary all the same, and the trail says that they forced it."""
    adapter = await world.gated()
    await world.router.reject(adapter, OPERATOR)
    with pytest.raises(BadRequest):
        await world.router.start_canary(adapter, 0.2, OPERATOR)
    with pytest.raises(BadRequest):
        await world.router.start_canary(adapter, 0.2, forced(SERVER))
    await world.router.start_canary(adapter, 0.2, forced())
    entry = (await world.database.read(lambda c: audit.newest(c, 1, adapter)))[0]
    assert entry.detail["force"] is True


@pytest.mark.parametrize("state", [S.STAGED, S.VERIFIED])
async def test_nothing_unchecked_is_ever_routed_to(state: S, world: World) -> None:
    """I5: not even an operator's force brings it there."""
    adapter = (await world.upload()).id
    if state is S.VERIFIED:
        await world.registry.advance(adapter, state, actor="x")
    for move in (world.router.promote(adapter, forced()), world.router.start_canary(adapter, 0.2, forced())):
        with pytest.raises(BadRequest) as caught:
            await move
        assert caught.value.code == "illegal_move"
    assert world.router.current(ALIAS).generation == 0


async def test_training_adapters_are_never_routed_to(world: World) -> None:
    """Ephemeral ones answer by id alone."""
    adapter = (await world.upload(ephemeral=True)).id
    with pytest.raises(BadRequest):
        await world.router.promote(adapter, forced())


async def test_a_child_of_what_was_taken_back_is_stale(world: World) -> None:
    """It is refused at promotion, unless an operator insists."""
    parent = await world.active()
    child = await world.gated(parent=parent)
    await world.router.rollback(ALIAS, OPERATOR)
    with pytest.raises(BadRequest) as caught:
        await world.router.promote(child, OPERATOR)
    assert caught.value.code == "stale_parent"
    assert (await world.router.promote(child, forced())).active == child


async def test_routing_survives_a_restart(tmp_path: Path) -> None:
    """Who was active, previous and canary still is, and a damaged active adapter is left at the start."""
    world = await open_world(tmp_path)
    first, second = await world.active(), await world.active()
    await world.router.start_canary(await world.gated(), 0.2, OPERATOR)
    before = world.router.current(ALIAS)
    await world.database.close()

    again = await open_world(tmp_path, clock=world.clock)
    assert again.router.current(ALIAS) == before
    await again.router.heal()
    assert again.router.current(ALIAS) == before
    path = again.registry.path(second) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    await again.router.heal()
    routing = again.router.current(ALIAS)
    assert (routing.active, routing.canary) == (first, None)
    await again.check()
    await again.database.close()

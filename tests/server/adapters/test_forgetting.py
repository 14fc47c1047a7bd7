"""Adapters that learned from somebody who is erased: who serves afterwards, and what never comes back."""

from __future__ import annotations

import pytest

from server.errors import BadRequest
from server.store import audit
from server.store import routing as store
from server.store.records import AdapterState as S
from server.wire.base import BASE
from tests.server.adapters.support import ALIAS, OPERATOR, World


async def chain(world: World) -> list[str]:
    """Three generations, the third active, and a canary that grew from it."""
    grown: list[str] = []
    for number in range(3):
        grown.append(await world.active(parent=grown[-1] if grown else BASE, feed_upto=10 * (number + 1)))
    grown.append(await world.gated(parent=grown[-1], feed_upto=40))
    await world.router.start_canary(grown[-1], 0.2, OPERATOR)
    return grown


async def test_the_newest_clean_ancestor_takes_over(world: World) -> None:
    """All that grew from the tainted one is out for ever, the canary with it, in one audited move."""
    first, second, third, canary = await chain(world)
    waiting = await world.gated(parent=second)
    sibling = await world.gated(parent=first)
    (plan,) = await world.router.forgetting([second, "a-unknown"])
    assert (plan.adapters, plan.active, plan.learned_upto) == ((second, third, canary, waiting), first, 10)
    assert (await world.states())[third] is S.ACTIVE, "a look changes nothing"
    generation = world.router.current(ALIAS).generation
    routing = await world.router.forget(ALIAS, [second], "roll_back", OPERATOR)
    assert (routing.active, routing.previous, routing.canary) == (first, BASE, None)
    assert routing.generation == generation + 1
    out = {second: S.QUARANTINED, third: S.QUARANTINED, canary: S.QUARANTINED, waiting: S.QUARANTINED}
    assert await world.states() == {first: S.ACTIVE, sibling: S.GATED, **out}
    await world.check()
    with pytest.raises(BadRequest):
        await world.router.undo(ALIAS, OPERATOR)
    assert (await world.router.rollback(ALIAS, OPERATOR)).active == BASE
    assert (await world.router.undo(ALIAS, OPERATOR)).active == first
    (entry,) = [one for one in await world.database.read(lambda c: audit.newest(c, 9)) if one.action == "roll_back"]
    assert (entry.actor, entry.detail["adapters"]) == ("an operator", [second, third, canary, waiting])
    assert not await world.router.forgetting([second]), "nothing is left to do"


async def test_without_a_clean_ancestor_base_takes_over(world: World) -> None:
    """And what was undone by a rollback before does not come back by its undo."""
    first, second, _, _ = await chain(world)
    await world.router.rollback(ALIAS, OPERATOR)
    assert world.router.current(ALIAS).active == second
    routing = await world.router.forget(ALIAS, [first], "retrain", OPERATOR)
    assert (routing.active, routing.previous, routing.canary) == (BASE, None, None)
    assert set((await world.states()).values()) == {S.QUARANTINED}
    for move in (world.router.undo(ALIAS, OPERATOR), world.router.rollback(ALIAS, OPERATOR)):
        with pytest.raises(BadRequest):
            await move
    assert (await world.database.read(lambda c: store.last_retraining(c, ALIAS)) or (0, -1))[1] == 0
    await world.check()


async def test_an_active_one_that_is_clean_goes_on(world: World) -> None:
    """Only what learned from it leaves: the canary, or the way back."""
    first, second, third, canary = await chain(world)
    routing = await world.router.forget(ALIAS, [canary], "retrain", OPERATOR)
    assert (routing.active, routing.previous, routing.canary) == (third, second, None)
    assert (await world.database.read(lambda c: store.last_retraining(c, ALIAS)) or (0, -1))[1] == 30
    another = await world.gated()
    await world.router.start_canary(another, 0.3, OPERATOR)
    lonely = await world.gated()
    routing = await world.router.forget(ALIAS, [lonely], "roll_back", OPERATOR)
    assert (routing.active, routing.canary, routing.canary_share) == (third, another, 0.3)
    assert (await world.states())[first] is S.RETIRED
    await world.check()


async def test_a_clean_canary_ends_when_its_rival_is_replaced(world: World) -> None:
    """Its evidence was against another adapter."""
    first, second = await world.active(), await world.active()
    canary = await world.gated()
    await world.router.start_canary(canary, 0.2, OPERATOR)
    routing = await world.router.forget(ALIAS, [second], "roll_back", OPERATOR)
    assert (routing.active, routing.canary, (await world.states())[canary]) == (BASE, None, S.ROLLED_BACK)
    assert (await world.states())[first] is S.RETIRED, "no ancestor of the one that left"
    await world.check()


async def test_a_shadow_that_is_forgotten_ends(world: World) -> None:
    """One that is clean goes on: what it is compared with is read from the requests themselves."""
    first, second, *_ = await chain(world)
    clean, tainted = await world.gated(parent=first), await world.gated(parent=second)
    await world.router.set_shadow(clean, 0.1, OPERATOR)
    assert (await world.router.forget(ALIAS, [second], "roll_back", OPERATOR)).shadow == clean
    assert (await world.states())[tainted] is S.QUARANTINED
    assert (await world.router.forget(ALIAS, [clean], "roll_back", OPERATOR)).shadow is None
    await world.check()

"""The whole way of an adapter, by itself, through restarts and failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from reward.policy import SafetyPolicy
from reward.types import Prompt
from server.adapters.gate.gate import Gate
from server.adapters.probe import Prober
from server.adapters.rollout import Rollout
from server.adapters.routing import Order
from server.config import AliasConfig, GateConfig, RolloutConfig, SuiteConfig
from server.engine.port import EngineError
from server.pipeline.task import Assignment
from server.store import audit, schema, signals
from server.store.records import AdapterState as S
from server.store.records import GroupState, SignalKind, SignalRecord
from server.wire.base import BASE
from tests.server.adapters.support import ALIAS, OPERATOR, World, adapter_bytes, open_world, until

AT_ONCE: dict[str, Any] = {
    "canary_requests": 30,
    "inconclusive_share": 0.3,
    "min_canary_s": 0,
    "cooldown_s": 0,
    "max_moves_per_hour": 1000,
    "poll_s": 0.02,
}
DULL = adapter_bytes(seed=999)
"""An adapter that loses what the suite asks for, known by its content."""


def alias_for(directory: Path, **rollout: Any) -> AliasConfig:
    suite = directory / "suite.jsonl"
    items = [
        {"id": str(n), "messages": [{"role": "user", "content": f"What {n}?"}], "checks": {"must_mention": ["red"]}}
        for n in range(12)
    ]
    suite.write_text("\n".join(json.dumps(item) for item in items))
    return AliasConfig(
        gate=GateConfig(suites=(SuiteConfig(name="names", path=suite),)),
        rollout=RolloutConfig(**{**AT_ONCE, **rollout}),
    )


@asynccontextmanager
async def driven(world: World, **rollout: Any) -> AsyncIterator[Rollout]:
    """The rollout, running on a fake engine whose adapters name what they see, but for the dull ones."""
    dull: set[str] = set()

    def script(model: str, prompt: Prompt, index: int) -> str:
        return "nothing much" if model in dull else "a red circle"

    world.engine.script = script
    world.engine.token_logprob = lambda model, prompt, piece: -0.5 if model == "base" else -0.4
    alias = alias_for(world.directory, **rollout)
    gate = Gate.load(world.database, world.blobs, world.engine, alias, read=SafetyPolicy().judge)
    driver = Rollout(
        database=world.database,
        registry=world.registry,
        router=world.router,
        prober=Prober(world.database, world.blobs),
        gates={ALIAS: gate},
        aliases=[alias],
        engines=[world.engine],
        clock=world.clock,
        retry_s=0.02,
        idle_s=0.2,
    )
    for record in await world.registry.find():
        if (world.registry.path(record.id) / "adapter_model.safetensors").read_bytes() == DULL:
            dull.add(record.id)
    await driver.start()
    try:
        yield driver
    finally:
        await driver.stop()


def is_canary(world: World, adapter: str) -> Callable[[], bool]:
    return lambda: world.router.current(ALIAS).canary == adapter


async def store(world: World, assignment: Assignment, user: str, **changes: Any) -> None:
    """A request's group, as the pipeline leaves it."""
    served = {
        "generation": assignment.generation,
        "adapter": assignment.adapter,
        "is_canary": assignment.is_canary,
        "user_hash": user,
    }
    await world.store_group(f"What does {user} see?", **{**served, **changes})


async def serve(world: World, requests: int, *, is_harm: Callable[[Assignment], bool] = lambda _: False) -> None:
    """One request of each of so many users."""
    assigned = {user: world.router.assign(ALIAS, user) for user in (f"user-{number}" for number in range(requests))}
    await asyncio.gather(
        *(
            store(world, one, user, state=GroupState.FAILED if is_harm(one) else GroupState.COMPLETED)
            for user, one in assigned.items()
        )
    )


async def kinds(world: World, adapter: str) -> list[tuple[str, str]]:
    return [(report.kind, report.outcome) for report in await world.registry.reports(adapter)]


async def test_a_good_adapter_gets_through_by_itself(world: World) -> None:
    """Uploaded, probed, gated, tried, promoted: with a report for every step and no operator."""
    async with driven(world) as driver:
        adapter = (await world.upload()).id
        driver.wake()
        await until(is_canary(world, adapter))
        assert world.router.current(ALIAS).canary_share == 0.3  # no held-out pairs: the gate was inconclusive
        await serve(world, 200)
        await until(lambda: world.router.current(ALIAS).active == adapter)
        assert await kinds(world, adapter) == [
            ("integrity", "passed"),
            ("probe", "passed"),
            ("gate", "inconclusive"),
            ("canary", "promoted"),
        ]
        actors = {entry.actor for entry in await world.database.read(lambda c: audit.newest(c, 50, adapter))}
        assert actors == {"a learner", "rollout"}
        await world.check()


async def test_it_stops_when_told_to_whatever_happens_meanwhile(world: World) -> None:
    """A wake-up that meets the end does not swallow it."""
    async with driven(world) as driver:
        await driver.stop()
        async with asyncio.timeout(5):
            for pause_s in [0.0] * 20 + [0.005] * 20:
                await driver.start()
                await asyncio.sleep(pause_s)
                driver.wake()
                await driver.stop()


async def test_a_harmful_canary_is_rolled_back_by_itself(world: World) -> None:
    """Its answers are blocked or fail far more often: the share goes back, nobody was asked."""
    async with driven(world, canary_requests=10_000) as driver:
        first = await world.active()
        adapter = (await world.upload()).id
        driver.wake()
        await until(is_canary(world, adapter))
        await serve(world, 400, is_harm=lambda assignment: assignment.is_canary)
        await until(lambda: world.router.current(ALIAS).canary is None)
        assert world.router.current(ALIAS).active == first
        assert await world.state(adapter) is S.ROLLED_BACK
        assert (await kinds(world, adapter))[-1] == ("canary", "rolled_back")
        await world.check()


async def test_a_canary_that_the_engine_cannot_load_is_harm(world: World) -> None:
    """Its requests were answered by base: each counts as a failure of the canary."""
    async with driven(world, canary_requests=10_000) as driver:
        adapter = (await world.upload()).id
        driver.wake()
        await until(is_canary(world, adapter))
        generation = world.router.current(ALIAS).generation
        for number in range(100):
            await store(world, Assignment(BASE, generation, is_canary=True), f"canary-{number}")
            await store(world, Assignment(BASE, generation), f"active-{number}")
        await until(lambda: world.router.current(ALIAS).canary is None)
        assert await world.state(adapter) is S.ROLLED_BACK


async def counts(driver: Rollout) -> tuple[int, int]:
    """The answers that count, of the canary and of the active adapter, once everything was read."""
    await driver._conduct()
    run = driver.evidence(ALIAS)
    assert run is not None
    summary = run.trial.summary()
    assert run.canary_answers == summary["canary_answers"] == driver.canary_answers(ALIAS)
    return summary["canary_answers"], summary["active_answers"]


async def test_what_the_gate_refuses_never_serves(world: World) -> None:
    """Lost coverage: rejected with the report; forced past it by an operator, it is never promoted by itself."""
    adapter = (await world.upload(tensors=DULL)).id
    async with driven(world):
        await until(lambda: _is(world, adapter, S.REJECTED))
        assert (await kinds(world, adapter))[-1] == ("gate", "failed")
        assert world.router.current(ALIAS).generation == 0
        await world.router.start_canary(adapter, 0.5, Order("an operator", force=True))
        await serve(world, 200)
        await until(lambda: _has_report(world, adapter, ("canary", "expired")))
        assert world.router.current(ALIAS).canary == adapter


async def _is(world: World, adapter: str, state: S) -> bool:
    return await world.state(adapter) is state


async def _has_report(world: World, adapter: str, report: tuple[str, str]) -> bool:
    return report in await kinds(world, adapter)


async def test_an_adapter_that_does_nothing_is_rejected(world: World) -> None:
    """The probe's reason is in the report."""
    async with driven(world) as driver:
        world.engine.token_logprob = lambda model, prompt, piece: -0.5
        adapter = (await world.upload()).id
        driver.wake()
        await until(lambda: _is(world, adapter, S.REJECTED))
        assert (await kinds(world, adapter))[-1] == ("probe", "failed")


async def test_a_damaged_adapter_is_rejected(world: World) -> None:
    """Between upload and probe a bit flipped on the disk."""
    adapter = (await world.upload()).id
    path = world.registry.path(adapter) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    async with driven(world):
        await until(lambda: _is(world, adapter, S.REJECTED))
    assert not any(call.model == adapter for call in world.engine.calls)


async def test_an_engine_that_is_away_only_delays(world: World) -> None:
    """The adapter waits, whatever the number of failures, and goes on when the engine is back."""
    world.engine.ready = False
    async with driven(world) as driver:
        adapter = (await world.upload()).id
        driver.wake()
        await asyncio.sleep(0.3)
        assert await world.state(adapter) is S.STAGED
        world.engine.ready = True
        world.engine.fail_next(EngineError("hiccup"), times=3)
        await until(is_canary(world, adapter))


async def test_one_that_cannot_be_examined_does_not_hold_up_the_others(world: World) -> None:
    """Its trouble is its own: the next adapter is examined."""
    stuck = (await world.upload()).id
    async with driven(world) as driver:
        await until(is_canary(world, stuck))
        prober, failed = driver._examiner._prober, []
        run = prober.run

        async def trouble(engine: Any, adapter: Any) -> Any:
            if adapter.number == 2:
                failed.append(adapter.id)
                raise RuntimeError("a fault in the prober")
            return await run(engine, adapter)

        prober.run = trouble  # type: ignore[method-assign]
        other = (await world.upload()).id
        third = (await world.upload()).id
        driver.wake()
        await until(lambda: _is(world, third, S.GATED))
        assert await world.state(other) is S.STAGED
        await until(lambda: len(failed) > 2)


async def test_the_newest_gated_adapter_supersedes_those_that_waited(world: World) -> None:
    """While a canary runs the others wait; afterwards the newest is tried, older ones are rejected."""
    async with driven(world) as driver:
        canary = (await world.upload()).id
        driver.wake()
        await until(is_canary(world, canary))
        older, newest = (await world.upload()).id, (await world.upload()).id
        driver.wake()
        await until(lambda: _is(world, newest, S.GATED))
        assert await world.state(older) is S.GATED
        await world.router.reject(canary, OPERATOR)
        driver.wake()
        await until(is_canary(world, newest))
        assert await world.state(older) is S.REJECTED
        assert (await kinds(world, older))[-1] == ("decision", "rejected")


async def test_a_round_from_an_adapter_that_was_taken_back_is_stale(world: World) -> None:
    """It is rejected before the engine is asked, or before its canary."""
    parent = await world.active()
    waiting = await world.gated(parent=parent)
    staged = (await world.upload(parent=parent)).id
    await world.router.quarantine(parent, OPERATOR)
    async with driven(world):
        await until(lambda: _is(world, waiting, S.REJECTED))
        await until(lambda: _is(world, staged, S.REJECTED))
    assert not any(call.model == staged for call in world.engine.calls)


async def test_without_automation_operators_start_the_canary(world: World) -> None:
    """Probe and gate run all the same; an expired canary waits for the operator."""
    async with driven(world, automatic=False) as driver:
        adapter = (await world.upload()).id
        driver.wake()
        await until(lambda: _is(world, adapter, S.GATED))
        await asyncio.sleep(0.3)
        assert world.router.current(ALIAS).canary is None
        await world.router.start_canary(adapter, 0.5, OPERATOR)
        await serve(world, 200)
        await until(lambda: _has_report(world, adapter, ("canary", "expired")))
        assert world.router.current(ALIAS).canary == adapter
        await world.router.promote(adapter, OPERATOR)


@pytest.mark.parametrize("state", [S.STAGED, S.VERIFIED, S.GATED, S.CANARY])
async def test_a_restart_goes_on_where_it_stood(state: S, tmp_path: Path) -> None:
    """K15-K18: killed in any state, the next process takes the adapter to the end."""
    world = await open_world(tmp_path)
    adapter = (await world.upload()).id
    for step in (S.VERIFIED, S.GATED):
        if state is not S.STAGED and not (state is S.VERIFIED and step is S.GATED):
            await world.registry.advance(adapter, step, actor="rollout")
    if state is S.CANARY:
        await world.router.start_canary(adapter, 0.3, OPERATOR)
    assert await world.state(adapter) is state
    await world.database.close()

    again = await open_world(tmp_path, clock=world.clock)
    async with driven(again):
        await until(is_canary(again, adapter))
        await serve(again, 200)
        await until(lambda: again.router.current(ALIAS).active == adapter)
        await again.check()
    await again.database.close()


async def test_a_restart_loses_no_evidence(tmp_path: Path) -> None:
    """It is read from the store, so the next process has what the last one had."""
    world = await open_world(tmp_path)
    adapter = await world.gated()
    routing = await world.router.start_canary(adapter, 0.3, OPERATOR)
    for number in range(10):
        side = Assignment(adapter if number < 4 else BASE, routing.generation, is_canary=number < 4)
        await store(world, side, f"user-{number}")
    async with driven(world) as driver:
        before = await counts(driver)
    await world.database.close()

    again = await open_world(tmp_path, clock=world.clock)
    async with driven(again) as driver:
        assert await counts(driver) == before == (4, 6)
    await again.database.close()


# --- restraint --------------------------------------------------------------------------------------------


async def harmed(world: World, driver: Rollout) -> str:
    """An adapter whose canary was ended for harm."""
    adapter = (await world.upload()).id
    driver.wake()
    await until(is_canary(world, adapter))
    await serve(world, 400, is_harm=lambda assignment: assignment.is_canary)
    await until(lambda: world.router.current(ALIAS).canary is None)
    return adapter


async def test_after_harm_no_canary_starts_for_a_while(tmp_path: Path) -> None:
    """Also not after a restart; operators see why and until when, and are not bound by it."""
    world = await open_world(tmp_path)
    async with driven(world, canary_requests=10_000, cooldown_s=500) as driver:
        await harmed(world, driver)
        waiting = (await world.upload()).id
        driver.wake()
        await until(lambda: driver.waiting(ALIAS) is not None)
    await world.database.close()

    again = await open_world(tmp_path, clock=world.clock)
    async with driven(again, canary_requests=10_000, cooldown_s=500) as driver:
        await until(lambda: driver.waiting(ALIAS) is not None)
        wait = driver.waiting(ALIAS)
        assert wait is not None
        assert wait.reason == "cool-down after a harmful canary"
        assert wait.until is not None and again.clock() < wait.until < again.clock() + 500
        assert await again.state(waiting) is S.GATED
        again.clock.now += 500
        driver.wake()
        await until(is_canary(again, waiting))
        assert driver.waiting(ALIAS) is None
    await again.database.close()


async def test_an_operator_does_not_wait_for_the_cool_down(world: World) -> None:
    """Their canary starts at once."""
    async with driven(world, canary_requests=10_000, cooldown_s=500) as driver:
        await harmed(world, driver)
        adapter = (await world.upload()).id
        driver.wake()
        await until(lambda: driver.waiting(ALIAS) is not None)
        await world.router.start_canary(adapter, 0.5, OPERATOR)
        assert world.router.current(ALIAS).canary == adapter


async def test_the_server_moves_only_so_often(world: World) -> None:
    """With the hour's moves spent a canary that could be promoted waits; harm is ended all the same."""
    async with driven(world, max_moves_per_hour=1) as driver:
        adapter = (await world.upload()).id
        driver.wake()
        await until(is_canary(world, adapter))  # the one move
        await serve(world, 200)
        await until(lambda: driver.waiting(ALIAS) is not None)
        wait = driver.waiting(ALIAS)
        assert wait is not None and wait.reason == "max_moves_per_hour is reached"
        assert world.router.current(ALIAS).canary == adapter
        world.clock.now += 3600
        driver.wake()
        await until(lambda: world.router.current(ALIAS).active == adapter)

        bad = (await world.upload()).id
        driver.wake()
        await until(lambda: _is(world, bad, S.GATED))
        await world.router.start_canary(bad, 0.5, OPERATOR)
        await serve(world, 400, is_harm=lambda assignment: assignment.is_canary)
        await until(lambda: world.router.current(ALIAS).canary is None)
        assert world.router.current(ALIAS).active == adapter


async def test_a_canary_runs_for_a_while_before_it_is_promoted(world: World) -> None:
    """However much came in at once."""
    async with driven(world, min_canary_s=100) as driver:
        adapter = (await world.upload()).id
        driver.wake()
        await until(is_canary(world, adapter))
        await serve(world, 200)
        await until(lambda: driver.waiting(ALIAS) is not None)
        wait = driver.waiting(ALIAS)
        assert wait is not None and wait.reason == "the canary has not run for min_canary_s yet"
        world.clock.now += 100
        driver.wake()
        await until(lambda: world.router.current(ALIAS).active == adapter)


async def test_what_is_shown_not_to_be_worse_is_promoted_before_it_expires(world: World) -> None:
    """Thumbs of many users, as good on both sides: nobody waits for the end."""
    async with driven(world, canary_requests=100_000) as driver:
        adapter = (await world.upload()).id
        driver.wake()
        await until(is_canary(world, adapter))
        await world.router.start_canary(adapter, 0.5, OPERATOR)
        await serve(world, 1500)
        ids = await world.database.read(
            lambda c: c.execute(select(schema.groups.c.id, schema.groups.c.generation)).all()
        )
        rated = [
            SignalRecord(f"sig-{one.id}", one.id, SignalKind.RATING, "rating:", "somebody", 0.0, {"rating": 1.0})
            for one in ids
            if one.generation == world.router.current(ALIAS).generation
        ]
        await world.database.write(lambda c: [signals.insert_signal(c, one) for one in rated])
        await until(lambda: world.router.current(ALIAS).active == adapter)
        reports = await world.registry.reports(adapter)
        assert reports[-1].body["reason"] == "shown not to be worse"

"""The whole way of an adapter, by itself, through restarts and failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from reward.types import Prompt
from server.adapters.gate.gate import Gate
from server.adapters.probe import Prober
from server.adapters.rollout import Rollout
from server.adapters.routing import Order
from server.config import AliasConfig, GateConfig, RolloutConfig, SuiteConfig
from server.engine.port import EngineError
from server.pipeline.task import Assignment
from server.store import audit
from server.store.records import AdapterState as S
from server.store.records import GroupState
from server.wire.base import BASE
from tests.server.adapters.support import ALIAS, OPERATOR, World, adapter_bytes, open_world, until

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
        rollout=RolloutConfig(**{"canary_requests": 30, "inconclusive_share": 0.3, **rollout}),
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
    gate = Gate.load(world.database, world.blobs, world.engine, alias, is_blocked=lambda prompt, text: False)
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


def serve(world: World, driver: Rollout, requests: int, *, is_harm: Callable[[Assignment], bool]) -> None:
    for number in range(requests):
        assignment = world.router.assign(ALIAS, f"user-{number}")
        driver.observe(ALIAS, assignment, is_harm(assignment), False)


async def kinds(world: World, adapter: str) -> list[tuple[str, str]]:
    return [(report.kind, report.outcome) for report in await world.registry.reports(adapter)]


async def test_a_good_adapter_gets_through_by_itself(world: World) -> None:
    """Uploaded, probed, gated, tried, promoted: with a report for every step and no operator."""
    async with driven(world) as driver:
        adapter = (await world.upload()).id
        driver.wake()
        await until(is_canary(world, adapter))
        assert world.router.current(ALIAS).canary_share == 0.3  # no held-out pairs: the gate was inconclusive
        serve(world, driver, 200, is_harm=lambda _: False)
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
        serve(world, driver, 400, is_harm=lambda assignment: assignment.is_canary)
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
        for _ in range(100):
            driver.observe(ALIAS, Assignment(BASE, generation, is_canary=True), False, False)
            driver.observe(ALIAS, Assignment(BASE, generation), False, False)
        await until(lambda: world.router.current(ALIAS).canary is None)
        assert await world.state(adapter) is S.ROLLED_BACK


async def test_answers_of_another_generation_do_not_count(world: World) -> None:
    """A request that began before the canary did says nothing about it."""
    async with driven(world) as driver:
        adapter = (await world.upload()).id
        before = world.router.assign(ALIAS, "somebody")
        driver.wake()
        await until(is_canary(world, adapter))
        driver.observe(ALIAS, before, True, True)
        trial = driver.evidence(ALIAS)
        assert trial is not None
        assert (trial.canary, trial.active) == (0, 0)


async def test_what_the_gate_refuses_never_serves(world: World) -> None:
    """Lost coverage: rejected with the report; forced past it by an operator, it is never promoted by itself."""
    adapter = (await world.upload(tensors=DULL)).id
    async with driven(world) as driver:
        await until(lambda: _is(world, adapter, S.REJECTED))
        assert (await kinds(world, adapter))[-1] == ("gate", "failed")
        assert world.router.current(ALIAS).generation == 0
        await world.router.start_canary(adapter, 0.5, Order("an operator", force=True))
        serve(world, driver, 200, is_harm=lambda _: False)
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
        other = (await world.upload()).id
        third = (await world.upload()).id
        run, failed = driver._prober.run, []

        async def trouble(engine: Any, adapter: Any) -> Any:
            if adapter.id == other:
                failed.append(adapter.id)
                raise RuntimeError("a fault in the prober")
            return await run(engine, adapter)

        driver._prober.run = trouble  # type: ignore[method-assign]
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
        serve(world, driver, 200, is_harm=lambda _: False)
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
    async with driven(again) as driver:
        await until(is_canary(again, adapter))
        serve(again, driver, 200, is_harm=lambda _: False)
        await until(lambda: again.router.current(ALIAS).active == adapter)
        await again.check()
    await again.database.close()


async def test_a_restart_counts_the_canarys_evidence_again(tmp_path: Path) -> None:
    """From the stored requests of its generation, and of no other."""
    world = await open_world(tmp_path)
    adapter = await world.gated()
    await world.store_group(adapter=adapter, is_canary=True, generation=0)
    routing = await world.router.start_canary(adapter, 0.3, OPERATOR)
    for number in range(10):
        served = {"generation": routing.generation, "is_canary": number < 4, "adapter": adapter if number < 4 else BASE}
        state = GroupState.FAILED if number in (0, 1, 9) else GroupState.COMPLETED
        await world.store_group(f"What {number}?", state=state, **served)
    await world.store_group(state=GroupState.ABORTED, is_canary=True, generation=routing.generation, adapter=adapter)
    await world.database.close()

    again = await open_world(tmp_path, clock=world.clock)
    async with driven(again) as driver:
        trial = driver.evidence(ALIAS)
        assert trial is not None
        assert (trial.canary, trial.canary_harms, trial.active, trial.active_harms) == (4, 2, 6, 1)
    await again.database.close()

"""Adapters on several replicas: proven on each, moved with a quorum, unloaded when nobody needs them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reward.types import Message, Prompt
from server.adapters.probe import Prober
from server.adapters.replicas import ReplicaProber
from server.adapters.routing import Router
from server.adapters.unloading import Unloader
from server.engine.fake import FakeEngine
from server.engine.pool import EnginePool, Standing
from server.engine.port import EngineError, Sampling
from server.engine.supervisor import EngineSupervisor
from server.errors import EngineUnavailable
from server.store.records import AdapterState as S
from tests.server.adapters.support import ALIAS, OPERATOR, World, open_world, until


@dataclass
class Fleet:
    """A world whose router moves with the consent of two fake replicas."""

    world: World
    engines: list[FakeEngine]
    pool: EnginePool
    prober: ReplicaProber
    router: Router
    unloader: Unloader
    deaf: set[tuple[int, str]] = field(default_factory=set)
    """(replica, adapter) where base is served under the adapter's name."""

    async def stage(self) -> str:
        """An adapter that has passed its examination."""
        record = await self.world.upload()
        result = await self.prober.run(self.pool, record)
        assert result.outcome == "passed", result.reason
        for state in (S.VERIFIED, S.GATED):
            assert await self.world.registry.advance(record.id, state, actor="rollout")
        return record.id

    @property
    def standings(self) -> list[Standing]:
        return [member.standing for member in self.pool.members]

    async def down(self, number: int) -> None:
        self.engines[number].ready = False
        await until(lambda: self.standings[number] is Standing.NOT_READY)

    async def back(self, number: int) -> None:
        self.engines[number].ready = True
        await until(lambda: self.pool.members[number].is_ready)


@asynccontextmanager
async def fleet(directory: Path, *, quorum: int = 0) -> AsyncIterator[Fleet]:
    world = await open_world(directory)
    engines = [FakeEngine(adapters_dir=directory / "adapters") for _ in range(2)]
    pool = EnginePool([(one, EngineSupervisor(one, None, probe_interval_s=0.01)) for one in engines])
    prober = ReplicaProber(
        pool,
        Prober(world.database, world.blobs),
        routings=lambda: router.all(),  # noqa: PLW0108 - each is made with the other
        find=world.registry.get,
        quorum=quorum,
    )
    router = Router(
        world.database,
        [ALIAS],
        clock=world.clock,
        verify=world.registry.verify,
        is_intact=world.registry.is_intact,
        moving_to=prober.moving_to,
    )
    await router.load()
    unloader = Unloader(pool, live=prober.live, find=lambda states: world.registry.find(states=states))
    site = Fleet(world, engines, pool, prober, router, unloader)
    for number, one in enumerate(engines):

        def logprob(model: str, prompt: Prompt, piece: str, number: int = number) -> float:
            return -0.5 if model == "base" or (number, model) in site.deaf else -0.4

        one.token_logprob = logprob
    pool.start(prober.live, prober.prove)
    await until(lambda: site.standings == [Standing.IN] * 2)
    yield site
    await pool.stop()
    await world.database.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path) as one:
        yield one


async def test_an_examination_asks_every_replica(site: Fleet) -> None:
    """One report counts them; each is proven with the adapter."""
    record = await site.world.upload()
    result = await site.prober.run(site.pool, record)
    assert result.outcome == "passed"
    assert [check.count for check in result.checks if check.name == "replicas"] == [2]
    assert all(record.id in member.proven for member in site.pool.members)


async def test_what_fails_everywhere_is_the_adapters_fault(site: Fleet) -> None:
    """It is refused, and no replica is blamed."""
    record = await site.world.upload()
    site.deaf |= {(0, record.id), (1, record.id)}
    assert (await site.prober.run(site.pool, record)).outcome == "failed"
    assert site.standings == [Standing.IN] * 2


async def test_what_fails_on_one_replica_is_that_replicas_fault(site: Fleet) -> None:
    """It is taken out; the adapter goes on, and the move needs only those that are in."""
    record = await site.world.upload()
    site.deaf.add((1, record.id))
    assert (await site.prober.run(site.pool, record)).outcome == "passed"
    assert site.standings[1] is not Standing.IN or record.id not in site.pool.members[1].proven


async def test_a_replica_with_a_wrong_adapter_never_serves_it(site: Fleet) -> None:
    """It went wrong after the examination: the move proves it again where it is new, and takes it out."""
    adapter = await site.stage()
    await site.down(1)
    site.deaf.add((1, adapter))
    await site.back(1)
    await until(lambda: site.standings == [Standing.IN] * 2)  # nothing is live yet: it is well
    await site.router.promote(adapter, OPERATOR)
    assert site.standings[1] is not Standing.IN
    for number in range(8):
        prompt = Prompt((Message("user", (f"Question {number}?",)),))
        await site.pool.generate(adapter, prompt, 1, Sampling(max_tokens=4))
    assert not [call for call in site.engines[1].calls if call.method == "generate" and call.model == adapter]
    await until(lambda: site.standings[1] is Standing.CANNOT_SERVE)
    site.deaf.clear()
    await until(lambda: site.standings == [Standing.IN] * 2, timeout_s=15.0)


async def test_by_default_a_move_needs_those_that_are_in(site: Fleet) -> None:
    """One of two is down: the other one is enough, and the one that comes back is proven first."""
    adapter = await site.stage()
    await site.down(1)
    await site.router.promote(adapter, OPERATOR)
    assert site.router.current(ALIAS).active == adapter
    await site.back(1)
    await until(lambda: site.standings == [Standing.IN] * 2)
    assert site.pool.members[1].proven == {adapter}


async def test_a_quorum_that_is_not_met_refuses_the_move(tmp_path: Path) -> None:
    """503, and routing stays; an examination waits. With the replica back both go through."""
    async with fleet(tmp_path, quorum=2) as site:
        adapter = await site.stage()
        record = await site.world.upload()
        await site.down(1)
        with pytest.raises(EngineUnavailable) as refused:
            await site.router.promote(adapter, OPERATOR)
        assert refused.value.code == "quorum_missing"
        assert site.router.current(ALIAS).generation == 0
        assert await site.world.state(adapter) is S.GATED
        with pytest.raises(EngineError):
            await site.prober.run(site.pool, record)
        await site.back(1)
        await until(lambda: site.standings == [Standing.IN] * 2)
        await site.router.promote(adapter, OPERATOR)
        assert (await site.prober.run(site.pool, record)).outcome == "passed"


async def test_the_way_back_needs_nobody(tmp_path: Path) -> None:
    """A rollback goes through while no engine answers at all (I6)."""
    async with fleet(tmp_path, quorum=2) as site:
        first, second = await site.stage(), await site.stage()
        await site.router.promote(first, OPERATOR)
        await site.router.promote(second, OPERATOR)
        await site.down(0)
        await site.down(1)
        assert (await site.router.rollback(ALIAS, OPERATOR)).active == first
        with pytest.raises(EngineUnavailable):
            await site.router.undo(ALIAS, OPERATOR)


async def test_what_is_refused_anyway_is_refused_before_engines_are_asked(site: Fleet) -> None:
    """No replica is loaded with what cannot move."""
    record = await site.world.upload()
    with pytest.raises(Exception, match="staged cannot become active"):
        await site.router.promote(record.id, OPERATOR)
    assert not any(one.loaded for one in site.engines)


async def test_what_nobody_needs_is_unloaded_from_every_replica(site: Fleet) -> None:
    """Active, previous, canary, examined and ephemeral adapters stay; others' names are not ours to touch."""
    kept = [await site.stage() for _ in range(4)]
    first, second, third, waiting = kept
    await site.router.promote(first, OPERATOR)
    await site.router.promote(second, OPERATOR)
    await site.router.start_canary(third, 0.5, OPERATOR)
    ephemeral = (await site.world.upload(ephemeral=True)).id
    rejected = await site.stage()
    await site.router.reject(rejected, OPERATOR)
    for one in site.engines:
        one.loaded |= {ephemeral, rejected, "somebody-elses"}
    assert await site.unloader.sweep() == 2
    for one in site.engines:
        assert one.loaded == {first, second, third, waiting, ephemeral, "somebody-elses"}
    await site.router.reject(third, OPERATOR)
    await site.router.promote(waiting, OPERATOR)
    await site.unloader.sweep()
    assert all(one.loaded == {second, waiting, ephemeral, "somebody-elses"} for one in site.engines)


async def test_what_is_in_use_is_unloaded_only_afterwards(site: Fleet) -> None:
    """A request that runs on an adapter keeps it where it runs, and nowhere else."""
    adapter = await site.stage()
    stream = site.pool.stream(adapter, Prompt((Message("user", ("Hi",)),)), Sampling(max_tokens=8))
    await anext(stream)
    await site.router.reject(adapter, OPERATOR)
    assert await site.unloader.sweep() == 1
    assert [adapter in one.loaded for one in site.engines].count(True) == 1
    await stream.aclose()
    assert await site.unloader.sweep() == 1
    assert not any(one.loaded for one in site.engines)


async def test_what_was_unloaded_can_come_back(site: Fleet) -> None:
    """Undo of a rollback: the engine loads it again, and it is proven again before it gets traffic."""
    first, second = await site.stage(), await site.stage()
    await site.router.promote(first, OPERATOR)
    await site.router.promote(second, OPERATOR)
    await site.router.rollback(ALIAS, OPERATOR)
    await site.unloader.sweep()
    assert all(
        second not in one.loaded and second not in member.proven
        for one, member in zip(site.engines, site.pool.members, strict=True)
    )
    await site.router.undo(ALIAS, OPERATOR)
    assert all(second in member.proven for member in site.pool.members)


async def test_a_replica_that_cannot_be_asked_keeps_what_it_has(site: Fleet) -> None:
    """A failure is harmless: the others are swept, the rest goes the next time."""
    adapter = await site.stage()
    await site.router.reject(adapter, OPERATOR)
    await site.down(0)
    assert await site.unloader.sweep() == 1
    await site.back(0)
    await until(lambda: site.standings[0] is Standing.IN)
    assert await site.unloader.sweep() == 1

"""Several replicas behind one port: fake engines that die, hang, forget adapters and come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.types import Message, Prompt
from server.engine.fake import FakeEngine
from server.engine.health import EngineState
from server.engine.pool import EnginePool, Standing
from server.engine.port import (
    Delta,
    Engine,
    EngineError,
    EngineUnreachable,
    PromptTooLong,
    Sampling,
    UnknownModel,
)
from server.engine.supervisor import EngineSupervisor
from tests.server.engine.waiting import until

SAMPLING = Sampling(max_tokens=8, seed=1)


def ask(number: int = 0) -> Prompt:
    return Prompt((Message("user", (f"Question {number}?",)),))


@dataclass
class Site:
    """A pool of fakes, what is live on it, and what they fail to show."""

    engines: list[FakeEngine]
    pool: EnginePool
    live: set[str] = field(default_factory=set)
    problems: dict[int, str] = field(default_factory=dict)
    proofs: list[tuple[int, str]] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def prove(self, engine: Engine, adapter: str) -> str:
        number = next(number for number, one in enumerate(self.engines) if one is engine)
        self.proofs.append((number, adapter))
        await self.hold.wait()
        await engine.score(adapter, ask(), "a red cup")
        return self.problems.get(number, "")

    @property
    def standings(self) -> list[Standing]:
        return [member.standing for member in self.pool.members]

    def served_by(self, method: str = "generate") -> list[int]:
        return [number for number, one in enumerate(self.engines) for call in one.calls if call.method == method]


@asynccontextmanager
async def running(
    count: int = 2, *, interval_s: float = 0.01, live: tuple[str, ...] = (), engines: list[FakeEngine] | None = None
) -> AsyncIterator[Site]:
    engines = engines or [FakeEngine(adapters={"a", "b"}) for _ in range(count)]
    supervised = [(one, EngineSupervisor(one, None, probe_interval_s=interval_s)) for one in engines]
    site = Site(engines, EnginePool(supervised), set(live))
    site.hold.set()
    site.pool.start(lambda: site.live, site.prove)
    assert await site.pool.wait_ready(5.0)
    await until(lambda: site.standings == [Standing.IN] * len(engines))
    try:
        yield site
    finally:
        await site.pool.stop()
        await site.pool.close()


Call = Callable[[EnginePool], Awaitable[object]]


async def stream_all(pool: EnginePool, model: str = "base") -> str:
    return "".join([delta.text async for delta in pool.stream(model, ask(), SAMPLING)])


CALLS: list[Call] = [
    lambda pool: pool.generate("base", ask(), 2, SAMPLING),
    stream_all,
    lambda pool: pool.score("base", ask(), "a red cup"),
    lambda pool: pool.encode(ask(), ["a red cup"]),
]


async def test_load_is_spread_by_what_is_still_owed() -> None:
    """The second of two long requests goes elsewhere; short ones fill up beside them."""
    async with running(2) as site:
        for one in site.engines:
            one.delay_s = 0.05
        prompts = [ask(0)] * 6  # one preference: only the load can spread them
        await asyncio.gather(*(site.pool.generate("base", prompt, 1, SAMPLING) for prompt in prompts))
        assert sorted(site.served_by().count(number) for number in (0, 1)) == [2, 4]
        assert [member.outstanding_tokens for member in site.pool.members] == [0, 0]


async def test_what_is_asked_again_goes_where_its_caches_are() -> None:
    """One after the other, the same prompt is always answered by the same replica; others by others."""
    async with running(3) as site:
        for number in range(30):
            for _ in range(2):
                await site.pool.generate("base", ask(number), 1, SAMPLING)
        homes = [
            {number for number, one in enumerate(site.engines) for call in one.calls if call.prompt == ask(question)}
            for question in range(30)
        ]
        assert all(len(home) == 1 for home in homes)
        assert set.union(*homes) == {0, 1, 2}


@pytest.mark.parametrize("call", CALLS)
async def test_a_lost_connection_costs_no_request(call: Call) -> None:
    """The replica is out at once, the request is answered by another one."""
    async with running(2, interval_s=5.0) as site:
        expected = await call(site.pool)
        for one in site.engines:
            one.fail_next(EngineUnreachable("gone"))
        first = next(number for number, one in enumerate(site.engines) if one.calls)
        site.engines[1 - first]._failures.clear()
        site.live.add("a")
        site.hold.clear()  # so that it stays out
        assert await call(site.pool) == expected
        assert site.standings[first] is Standing.UNREACHABLE
        assert site.standings[1 - first] is Standing.IN
        site.hold.set()
        await until(lambda: site.standings == [Standing.IN] * 2)


@pytest.mark.parametrize("call", CALLS)
async def test_a_request_is_tried_twice_at_most(call: Call) -> None:
    """With all connections lost it fails, as the port's error; nothing is held afterwards."""
    async with running(3, interval_s=5.0) as site:
        for one in site.engines:
            one.fail_next(EngineUnreachable("gone"))
        with pytest.raises(EngineUnreachable):
            await call(site.pool)
        assert sum(len(one._failures) for one in site.engines) == 1
        assert all(not member.requests and not member.outstanding_tokens for member in site.pool.members)


@pytest.mark.parametrize("error", [EngineError("HTTP 500"), PromptTooLong("long"), UnknownModel("never heard of")])
async def test_other_failures_are_the_callers(error: EngineError) -> None:
    """The engine answered: the replica stays in, and the request is not repeated."""
    async with running(2) as site:
        for one in site.engines:
            one.fail_next(error)
        with pytest.raises(type(error)):
            await site.pool.generate("base", ask(), 1, SAMPLING)
        assert sum(len(one._failures) for one in site.engines) == 1
        assert site.standings == [Standing.IN] * 2


class Breaking(FakeEngine):
    """Its connection is lost after the first piece of a stream."""

    async def stream(self, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        pieces = FakeEngine.stream(self, model, prompt, sampling)
        yield await anext(pieces)
        raise EngineUnreachable("gone")


async def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    """A connection lost in the middle is told to the caller; the replica is out."""
    engines: list[FakeEngine] = [Breaking(adapters={"a"}) for _ in range(2)]
    async with running(engines=engines, interval_s=5.0) as site:
        stream = site.pool.stream("base", ask(), SAMPLING)
        await anext(stream)
        site.hold.clear()
        site.live.add("a")
        with pytest.raises(EngineUnreachable):
            await anext(stream)
        assert len(site.served_by("stream")) == 1
        assert sorted(site.standings) == [Standing.IN, Standing.UNREACHABLE]


async def test_a_replica_that_forgot_an_adapter_is_taken_out() -> None:
    """It was proven with it, so it is at fault; another one answers, and it stays out until it serves it again."""
    async with running(2, live=("a",)) as site:
        await site.pool.generate("a", ask(), 1, SAMPLING)
        first = next(number for number, one in enumerate(site.engines) if site.served_by().count(number))
        site.engines[first].adapters.discard("a")
        assert (await site.pool.generate("a", ask(), 1, SAMPLING)).candidates[0].adapter == "a"
        assert site.standings[first] is not Standing.IN
        await asyncio.sleep(0.3)
        assert site.standings[first] is not Standing.IN
        site.engines[first].adapters.add("a")
        await until(lambda: site.standings == [Standing.IN] * 2)


async def test_the_last_replica_is_not_taken_out_for_an_adapter() -> None:
    """Who asked decides: the pipeline answers with base."""
    async with running(1, live=("a",)) as site:
        site.engines[0].adapters.clear()
        with pytest.raises(UnknownModel):
            await site.pool.generate("a", ask(), 1, SAMPLING)
        assert (await site.pool.generate("base", ask(), 1, SAMPLING)).candidates


async def test_a_replica_comes_back_only_when_proven_with_all_that_is_live() -> None:
    """Also with what became live while it was away; a failed proof keeps it out and is tried again."""
    async with running(2, live=("a",)) as site:
        site.engines[1].ready = False
        await until(lambda: site.standings[1] is Standing.NOT_READY)
        site.live.add("b")
        site.problems[1] = "it serves base under its name"
        site.proofs.clear()
        site.engines[1].ready = True
        await until(lambda: site.standings[1] is Standing.CANNOT_SERVE)
        for number in range(10):
            await site.pool.generate("a", ask(number), 1, SAMPLING)
        assert set(site.served_by()) == {0}
        site.problems.clear()
        await until(lambda: site.standings == [Standing.IN] * 2)
        assert {(1, "a"), (1, "b")} <= set(site.proofs)
        assert site.pool.members[1].proven == {"a", "b"}


async def test_what_becomes_live_during_the_proof_is_proven_too() -> None:
    """No replica slips in between the look at routing and the move."""
    async with running(2, live=("a",)) as site:
        site.hold.clear()
        site.engines[0].ready = False
        await until(lambda: site.standings[0] is Standing.NOT_READY)
        site.engines[0].ready = True
        await until(lambda: site.proofs[-1] == (0, "a"))
        site.live.add("b")
        site.hold.set()
        await until(lambda: site.standings[0] is Standing.IN)
        assert site.pool.members[0].proven == {"a", "b"}


async def test_an_error_in_the_proof_is_not_the_end() -> None:
    """Whatever the proof raises, it is made again."""
    async with running(2) as site:
        broken = site.prove
        calls = 0

        async def prove(engine: Engine, adapter: str) -> str:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise RuntimeError("the store is away")
            return await broken(engine, adapter)

        site.live.add("a")
        member = site.pool.members[0]
        member.take_out(Standing.UNREACHABLE)
        tending = asyncio.create_task(site.pool._tend(member, lambda: site.live, prove))
        await until(lambda: member.is_in)
        tending.cancel()


async def test_requests_wait_a_moment_for_a_replica_that_is_being_proven() -> None:
    """A connection that broke is no outage while the engine is well."""
    async with running(1, live=("a",), interval_s=5.0) as site:
        site.hold.clear()
        site.pool.members[0].take_out(Standing.UNREACHABLE)
        waiting = asyncio.create_task(site.pool.generate("base", ask(), 1, SAMPLING))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        site.hold.set()
        assert (await waiting).candidates


async def test_with_no_engine_up_requests_fail_at_once() -> None:
    """Nothing to wait for; the pool is not ready."""
    async with running(2) as site:
        for one in site.engines:
            one.ready = False
        await until(lambda: site.standings == [Standing.NOT_READY] * 2)
        async with asyncio.timeout(1.0):
            with pytest.raises(EngineUnreachable):
                await site.pool.generate("base", ask(), 1, SAMPLING)
        assert site.pool.state is EngineState.DOWN
        site.engines[1].ready = True
        await until(lambda: site.pool.state is EngineState.READY)


async def test_one_replica_in_is_enough() -> None:
    """Ready, and a request that prefers the other one is answered."""
    async with running(2) as site:
        site.engines[0].ready = False
        await until(lambda: site.standings == [Standing.NOT_READY, Standing.IN])
        assert site.pool.state is EngineState.READY
        for number in range(8):
            assert (await site.pool.generate("base", ask(number), 1, SAMPLING)).candidates
        assert await site.pool.version() == "fake 1"
        assert await site.pool.is_ready()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_is_held_when_all_has_ended(seed: int) -> None:
    """Answers, errors, cancellations, streams that are left, replicas that flap: every count is back at nothing."""

    async def story() -> None:
        rng = random.Random(seed)
        async with running(3, live=("a",)) as site:
            for one in site.engines:
                one.delay_s = 0.002
            pool = site.pool

            async def leave_early(model: str) -> None:
                stream = pool.stream(model, ask(rng.randrange(5)), SAMPLING)
                await anext(stream)
                await stream.aclose()

            def one_request() -> Awaitable[object]:
                model = rng.choice(["base", "a", "b", "unknown"])
                return rng.choice(
                    [
                        lambda: pool.generate(model, ask(rng.randrange(5)), rng.randrange(1, 4), SAMPLING),
                        lambda: stream_all(pool, model),
                        lambda: pool.score(model, ask(), "a red cup"),
                        lambda: leave_early(model),
                    ]
                )()

            tasks = []
            for _ in range(60):
                tasks.append(asyncio.ensure_future(one_request()))
                event = rng.random()
                if event < 0.15:
                    rng.choice(tasks).cancel()
                elif event < 0.3:
                    rng.choice(site.engines).fail_next(EngineUnreachable("gone"))
                elif event < 0.4:
                    rng.choice(site.engines).ready = rng.random() < 0.5
                await asyncio.sleep(rng.random() * 0.002)
            await asyncio.gather(*tasks, return_exceptions=True)
            assert all(not member.requests and not member.outstanding_tokens for member in pool.members)
            for one in site.engines:
                one.ready = True
                one._failures.clear()
            await until(lambda: site.standings == [Standing.IN] * 3)

    asyncio.run(story())

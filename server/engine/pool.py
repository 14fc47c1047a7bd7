"""`EnginePool`: the engine port over several replicas, each kept ready by its own supervisor.

Promises: a request goes to a replica that is *in*: READY, and proven since then with every adapter that is live. One
that loses its connection, or no longer knows an adapter that it was proven with, is out at once; its request is tried
once more elsewhere if nothing of the answer has left yet. It comes back when `prove` says so for every live adapter,
and only then. What a request holds of a replica (tokens, adapter) is given back however it ends.

Leaves out what is live and how it is proven (`server.adapters.replicas`), which replica is best (`balance`), and
keeping one engine ready (`supervisor`). One replica is the same thing with nothing to choose.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from reward.types import Prompt
from server.engine import balance
from server.engine.health import EngineState
from server.engine.port import (
    Beginning,
    Delta,
    EncodedAnswers,
    Engine,
    EngineError,
    EngineUnreachable,
    Generation,
    Replica,
    Sampling,
    ScoredAnswer,
    UnknownModel,
)
from server.engine.supervisor import EngineSupervisor

log = logging.getLogger(__name__)

Prove = Callable[[Engine, str], Awaitable[str]]
"""(engine, adapter) → why it does not serve the adapter as it should; empty: it does. Raises `EngineError`."""

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 10.0
"""Between two attempts to bring a replica in."""
MAX_WAIT_S = 5.0
"""How long a request waits for a replica whose engine is READY and that is being proven, when no other is in."""
_POLL_S = 0.02
_NO_PROMPT = Prompt(())

_T = TypeVar("_T")


class Standing(StrEnum):
    """Whether a replica gets requests, or why not. A label of metrics and a word in `/readyz`."""

    IN = "in"
    NOT_READY = "not_ready"
    """Its engine starts, is down or was stopped."""
    UNPROVEN = "unproven"
    """Its engine is READY and has to show the live adapters first."""
    UNREACHABLE = "unreachable"
    """A connection to it failed."""
    CANNOT_SERVE = "cannot_serve"
    """It did not serve an adapter as it should."""


_COMING = frozenset({Standing.UNPROVEN, Standing.UNREACHABLE})
"""Worth waiting for, for a moment: the engine is READY, so either it is let in soon or found to be down."""


@dataclass(eq=False, slots=True)
class Member:
    """One replica and what the pool knows of it. Changed by the pool alone."""

    number: int
    engine: Replica
    supervisor: EngineSupervisor
    outstanding_tokens: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    """Running requests by model; none is listed at zero."""
    proven: set[str] = field(default_factory=set)
    """Adapters that it was seen to serve since it became READY."""
    taken_out: Counter[Standing] = field(default_factory=Counter)
    _admitted: int = 0
    """`supervisor.readies` when it was let in; 0: it is out."""
    _trouble: Standing = Standing.UNPROVEN
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_ready(self) -> bool:
        return self.supervisor.state is EngineState.READY

    @property
    def standing(self) -> Standing:
        if not self.is_ready:
            return Standing.NOT_READY
        return Standing.IN if self._admitted == self.supervisor.readies else self._trouble

    @property
    def is_in(self) -> bool:
        return self.standing is Standing.IN

    def became_ready(self) -> None:
        """What was wrong with it before is over."""
        self._trouble = Standing.UNPROVEN
        self.wake.set()

    def let_in(self, readies: int, proven: set[str]) -> None:
        self._admitted, self.proven = readies, proven

    def take_out(self, trouble: Standing) -> None:
        if self.is_in:
            log.warning("replica %d is out: %s", self.number, trouble)
            self.taken_out[trouble] += 1
        self._admitted, self._trouble = 0, trouble
        self.proven.clear()
        self.wake.set()

    @contextlib.contextmanager
    def holding(self, model: str, tokens: int) -> Iterator[None]:
        """Count a request while it runs here."""
        self.outstanding_tokens += tokens
        self.requests[model] += 1
        try:
            yield
        finally:
            self.outstanding_tokens -= tokens
            self.requests[model] -= 1
            if not self.requests[model]:
                del self.requests[model]


class EnginePool:
    """An `Engine` over one or more replicas. Use it on one event loop."""

    def __init__(self, replicas: Sequence[tuple[Replica, EngineSupervisor]], *, affinity_factor: float = 2.0) -> None:
        self._members = tuple(Member(number, *replica) for number, replica in enumerate(replicas))
        self._affinity_factor = affinity_factor
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def members(self) -> tuple[Member, ...]:
        """All replicas, in the order of the configuration."""
        return self._members

    @property
    def present(self) -> list[Member]:
        """The replicas that are in."""
        return [member for member in self._members if member.is_in]

    @property
    def state(self) -> EngineState:
        """READY while at least one replica is in; else the best that can be said."""
        if self.present:
            return EngineState.READY
        states = {member.supervisor.state for member in self._members}
        if states & {EngineState.READY, EngineState.STARTING}:
            return EngineState.STARTING
        return EngineState.DOWN if EngineState.DOWN in states else EngineState.STOPPED

    # --- life ---------------------------------------------------------------------------------------------

    def start(self, live: Callable[[], Collection[str]], prove: Prove) -> None:
        """Start the engines; each is let in once it has shown every adapter of `live()`. A second call does nothing."""
        if self._tasks:
            return
        for member in self._members:

            async def wake(member: Member = member) -> None:
                member.became_ready()

            member.supervisor.on_ready = wake
            member.supervisor.start()
            self._tasks.append(asyncio.create_task(self._tend(member, live, prove), name=f"replica {member.number}"))

    async def stop(self) -> None:
        """End watching, and the engines that are ours. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(member.supervisor.stop() for member in self._members))

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until a replica is in; False when the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.present:  # noqa: ASYNC110 - the state is spread over supervisors
                    await asyncio.sleep(_POLL_S)
        return bool(self.present)

    async def _tend(self, member: Member, live: Callable[[], Collection[str]], prove: Prove) -> None:
        """Bring one replica in whenever it is out and its engine is READY."""
        pause = FIRST_PAUSE_S
        while True:
            await member.wake.wait()
            member.wake.clear()
            while member.is_ready and not member.is_in:
                if await self._admit(member, live, prove):
                    pause = FIRST_PAUSE_S
                    break
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_S)

    async def _admit(self, member: Member, live: Callable[[], Collection[str]], prove: Prove) -> bool:
        """Whether the replica is in now. Nothing is awaited between the last look at `live()` and letting it in."""
        readies = member.supervisor.readies
        proven: set[str] = set()
        try:
            if not await member.engine.is_ready():
                member.take_out(Standing.UNREACHABLE)
                return False
            while missing := sorted(set(live()) - proven):
                problem = await prove(member.engine, missing[0])
                if problem:
                    log.error("replica %d stays out: %s: %s", member.number, missing[0], problem)
                    member.take_out(Standing.CANNOT_SERVE)
                    return False
                proven.add(missing[0])
        except Exception as error:
            # Whatever goes wrong must not end the task: it is the only way in.
            is_expected = isinstance(error, EngineError)
            log.warning("replica %d cannot be proven now: %r", member.number, error, exc_info=not is_expected)
            return False
        if member.supervisor.readies != readies or not member.is_ready:
            return False
        member.let_in(readies, proven)
        log.info("replica %d is in, proven with %d adapters", member.number, len(proven))
        return True

    # --- the port -----------------------------------------------------------------------------------------

    @property
    def base_model(self) -> str:
        return self._members[0].engine.base_model

    async def generate(self, model: str, prompt: Prompt, n: int, sampling: Sampling) -> Generation:
        tokens = balance.tokens_of(prompt, n * sampling.max_tokens)
        return await self._call(model, prompt, tokens, lambda engine: engine.generate(model, prompt, n, sampling))

    async def extend(self, model: str, prompt: Prompt, beginning: Beginning, n: int, sampling: Sampling) -> Generation:
        tokens = balance.tokens_of(prompt, n * sampling.max_tokens)
        return await self._call(
            model, prompt, tokens, lambda engine: engine.extend(model, prompt, beginning, n, sampling)
        )

    async def can_extend(self, beginning: Beginning) -> bool:
        return await self._call(self.base_model, _NO_PROMPT, 0, lambda engine: engine.can_extend(beginning))

    async def score(self, model: str, prompt: Prompt, answer: str) -> ScoredAnswer:
        tokens = balance.tokens_of(prompt, len(answer) // balance.CHARS_PER_TOKEN)
        return await self._call(model, prompt, tokens, lambda engine: engine.score(model, prompt, answer))

    async def encode(self, prompt: Prompt, answers: Sequence[str]) -> EncodedAnswers:
        # The model does not run: it weighs nothing.
        return await self._call(self.base_model, prompt, 0, lambda engine: engine.encode(prompt, answers))

    async def speaks_of_tools(self) -> bool:
        return await self._call(self.base_model, _NO_PROMPT, 0, lambda engine: engine.speaks_of_tools())

    async def stream(self, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        tokens = balance.tokens_of(prompt, sampling.max_tokens)
        member = await self._choose(prompt, tokens)
        has_begun = False
        try:
            async with aclosing(_held(member, model, prompt, sampling, tokens)) as deltas:
                async for delta in deltas:
                    has_begun = True
                    yield delta
            return
        except EngineError as error:
            second = self._elsewhere(member, model, error, prompt, tokens)
            if has_begun or second is None:
                raise
        try:
            async with aclosing(_held(second, model, prompt, sampling, tokens)) as deltas:
                async for delta in deltas:
                    yield delta
        except EngineError as error:
            self._note(second, model, error)
            raise

    async def is_ready(self) -> bool:
        return any(await asyncio.gather(*(member.engine.is_ready() for member in self._members)))

    async def version(self) -> str:
        for member in sorted(self._members, key=lambda member: not member.is_in):
            with contextlib.suppress(EngineError):
                return await member.engine.version()
        raise EngineUnreachable("no replica tells its version")

    async def close(self) -> None:
        await asyncio.gather(*(member.engine.close() for member in self._members))

    async def _call(self, model: str, prompt: Prompt, tokens: int, call: Callable[[Engine], Awaitable[_T]]) -> _T:
        member = await self._choose(prompt, tokens)
        try:
            with member.holding(model, tokens):
                return await call(member.engine)
        except EngineError as error:
            second = self._elsewhere(member, model, error, prompt, tokens)
            if second is None:
                raise
        try:
            with second.holding(model, tokens):
                return await call(second.engine)
        except EngineError as error:
            self._note(second, model, error)
            raise

    # --- choosing -----------------------------------------------------------------------------------------

    async def _choose(self, prompt: Prompt, tokens: int) -> Member:
        """Raises `EngineUnreachable` when no replica is in, nor about to be."""
        if not self.present:
            await self._wait_for_one()
        return self._best(self.present, prompt, tokens)

    def _best(self, members: Sequence[Member], prompt: Prompt, tokens: int) -> Member:
        loads = {member.number: member.outstanding_tokens for member in members}
        return self._members[balance.choose(loads, balance.affinity_of(prompt), tokens, self._affinity_factor)]

    async def _wait_for_one(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_WAIT_S):
                while not self.present and any(one.standing in _COMING for one in self._members):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        if not self.present:
            raise EngineUnreachable("no replica is in")

    def _note(self, member: Member, model: str, error: EngineError) -> None:
        """Take out a replica that an error tells something about."""
        if isinstance(error, EngineUnreachable):
            member.take_out(Standing.UNREACHABLE)
        elif isinstance(error, UnknownModel) and model in member.proven and len(self.present) > 1:
            # Alone, it stays: who asks then decides what to do without the adapter.
            member.take_out(Standing.CANNOT_SERVE)

    def _elsewhere(self, failed: Member, model: str, error: EngineError, prompt: Prompt, tokens: int) -> Member | None:
        """Where to try the request again: on another replica, when the one that failed is taken out for it."""
        self._note(failed, model, error)
        if failed.is_in or not isinstance(error, EngineUnreachable | UnknownModel):
            return None
        others = [member for member in self.present if member is not failed]
        return self._best(others, prompt, tokens) if others else None


async def _held(member: Member, model: str, prompt: Prompt, sampling: Sampling, tokens: int) -> AsyncGenerator[Delta]:
    """One replica's stream, counted while it runs."""
    with member.holding(model, tokens):
        async with aclosing(member.engine.stream(model, prompt, sampling)) as deltas:
            async for delta in deltas:
                yield delta

"""What each replica has to show before it serves: that it serves the live adapters, by the probe's log-probabilities.

Live is what routing names (active, canary, previous), and what a move is just about to name. Three moments:

- an adapter is examined: every replica that is in is probed. Failed on all, the adapter is at fault; failed on some,
  these replicas are, and are taken out;
- a replica wants in: it is probed with every live adapter (`prove`, called by the pool);
- routing moves: whoever is in and was not probed with the target is probed now, and what fails is taken out. The move
  needs a quorum of proven replicas. The way back (rollback) never fails for the lack of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from server.adapters.probe import Prober, ProbeResult
from server.engine.pool import EnginePool, Member, Standing
from server.engine.port import Engine, EngineError, EngineUnreachable
from server.errors import EngineUnavailable, NotFound
from server.store.records import AdapterRecord, Routing
from server.wire.adapters import CheckReply
from server.wire.base import BASE

log = logging.getLogger(__name__)

WAY_BACK_WAIT_S = 2.0
"""How long a rollback waits for the probe of a target that was not proven everywhere."""


def routed(routing: Routing) -> set[str]:
    """The adapters that a routing row names: what has to be resident."""
    return {
        one for one in (routing.active, routing.canary, routing.previous, routing.shadow) if one not in (None, BASE)
    }


class ReplicaProber:
    """Probes adapters on the replicas of a pool. Safe for concurrent use on one event loop.

    `routings` gives the present rows, `find` an adapter's record (raises `NotFound`). `quorum`: how many replicas must
    be in and proven with an adapter before routing moves to it; 0: all that are in.
    """

    def __init__(
        self,
        pool: EnginePool,
        prober: Prober,
        *,
        routings: Callable[[], list[Routing]],
        find: Callable[[str], Awaitable[AdapterRecord]],
        quorum: int = 0,
    ) -> None:
        self._pool = pool
        self._prober = prober
        self._routings = routings
        self._find = find
        self._quorum = quorum
        self._expected: Counter[str] = Counter()

    def live(self) -> set[str]:
        """Adapters that a replica must have been seen to serve before it gets requests."""
        named = [routed(routing) for routing in self._routings()]
        return set().union(+self._expected, *named)

    async def prove(self, engine: Engine, adapter_id: str) -> str:
        """Why one engine does not serve a live adapter as it should; empty when it does. Raises `EngineError`."""
        try:
            adapter = await self._find(adapter_id)
        except NotFound:
            return "there is no such adapter"
        return (await self._prober.run(engine, adapter)).reason

    async def run(self, engine: Engine, adapter: AdapterRecord) -> ProbeResult:
        """Examine an adapter on every replica of the pool (`engine` is that pool); raises `EngineError`: not now."""
        members = self._pool.present
        if not members:
            raise EngineUnreachable("no replica is in")
        results = await self._probe(members, adapter)
        passed = [result for result in results.values() if result.outcome == "passed"]
        if not passed:
            return next(iter(results.values()))
        self._keep(results, adapter.id)
        self._require_quorum(adapter.id)
        if len(members) == 1:
            return passed[0]
        count = CheckReply(name="replicas", outcome="passed", value=len(passed), count=len(members))
        return ProbeResult("passed", (*passed[0].checks, count))

    async def arrive(self, adapter_id: str) -> None:
        """Get the replicas ready for an adapter that another server routes to. Never refuses: routing has moved."""
        async with self.moving_to(adapter_id, True):
            pass

    @contextlib.asynccontextmanager
    async def moving_to(self, adapter_id: str | None, is_way_back: bool) -> AsyncIterator[None]:
        """Around a routing move: raises `EngineUnavailable` where too few replicas serve the target."""
        if adapter_id is None or adapter_id == BASE:
            yield
            return
        self._expected[adapter_id] += 1  # also whoever comes in meanwhile is proven with it
        try:
            await self._prepare(adapter_id, is_way_back)
            yield
        finally:
            self._expected[adapter_id] -= 1

    async def _prepare(self, adapter_id: str, is_way_back: bool) -> None:
        try:
            async with asyncio.timeout(WAY_BACK_WAIT_S if is_way_back else None):
                await self._prove_everywhere(adapter_id)
        except (EngineError, TimeoutError, NotFound) as error:
            if not is_way_back:
                reason = "Too few engine replicas serve this adapter as they should; see /readyz, then try again."
                raise EngineUnavailable(reason, code="quorum_missing") from error
            log.warning("rolling back to %s, which is not proven everywhere: %r", adapter_id, error)

    async def _prove_everywhere(self, adapter_id: str) -> None:
        members = [member for member in self._pool.present if adapter_id not in member.proven]
        if members:
            results = await self._probe(members, await self._find(adapter_id))
            is_proven_somewhere = any(adapter_id in member.proven for member in self._pool.present)
            if is_proven_somewhere or any(result.outcome == "passed" for result in results.values()):
                self._keep(results, adapter_id)
        self._require_quorum(adapter_id)

    async def _probe(self, members: list[Member], adapter: AdapterRecord) -> dict[Member, ProbeResult]:
        """Of those that answered; what cannot be reached is out. Raises `EngineError` when that leaves nobody."""
        found = await asyncio.gather(
            *(self._prober.run(member.engine, adapter) for member in members), return_exceptions=True
        )
        results: dict[Member, ProbeResult] = {}
        for member, result in zip(members, found, strict=True):
            if isinstance(result, EngineUnreachable):
                member.take_out(Standing.UNREACHABLE)
            elif isinstance(result, BaseException):
                raise result
            else:
                results[member] = result
        if not results:
            raise EngineUnreachable("no replica could be probed")
        return results

    def _keep(self, results: dict[Member, ProbeResult], adapter_id: str) -> None:
        """The adapter is sound, for somebody serves it: who does not is at fault."""
        for member, result in results.items():
            if result.outcome == "passed":
                member.proven.add(adapter_id)
            else:
                log.error("replica %d does not serve %s: %s", member.number, adapter_id, result.reason)
                member.take_out(Standing.CANNOT_SERVE)

    def _require_quorum(self, adapter_id: str) -> None:
        members = self._pool.present
        proven = sum(adapter_id in member.proven for member in members)
        if proven == 0 or proven < (self._quorum or len(members)):
            raise EngineError(f"{proven} of {len(self._pool.members)} replicas serve {adapter_id}")

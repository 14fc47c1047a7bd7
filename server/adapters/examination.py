"""Brings staged adapters to `gated` or `rejected`: integrity, ancestry, probe, gate.

An adapter whose parent was rolled back, or that grew out of anything quarantined, is rejected as stale before the
engine is asked. Errors are logged and tried again with growing pauses, for each adapter apart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from server.adapters import lineage
from server.adapters.gate.gate import Gate
from server.adapters.probe import Probe
from server.adapters.registry import AdapterRegistry
from server.adapters.repeating import MAX_PAUSE_S
from server.adapters.routing import Router
from server.engine.port import Engine, EngineError
from server.errors import PlumblineError
from server.store.records import AdapterRecord, AdapterState, Report

log = logging.getLogger(__name__)

ACTOR = "rollout"
"""In whose name the server moves adapters by itself."""


class Examiner:
    """Probe and gate. `on_gated` is called after each adapter that came to an end here, `on_examined` after each probe
    and gate (alias, which, outcome, seconds).
    """

    def __init__(
        self,
        *,
        registry: AdapterRegistry,
        router: Router,
        prober: Probe,
        gates: Mapping[str, Gate],
        aliases: Collection[str],
        engines: Sequence[Engine],
        clock: Callable[[], float],
        on_gated: Callable[[], None],
        on_examined: Callable[[str, str, str, float], None],
        retry_s: float,
        idle_s: float,
    ) -> None:
        """`gates`: by alias. `retry_s`: first pause after an error. `idle_s`: longest wait without being woken."""
        self._registry = registry
        self._router = router
        self._prober = prober
        self._gates = gates
        self._aliases = aliases
        self._engines = tuple(engines)
        self._clock = clock
        self._on_gated = on_gated
        self._on_examined = on_examined
        self._retry_s = retry_s
        self._idle_s = idle_s
        self._not_before: dict[str, tuple[float, float]] = {}

    async def examine(self) -> float:
        """Take every adapter that waits one or two states further; how long to wait for the next look."""
        states = {AdapterState.STAGED, AdapterState.VERIFIED}
        waiting = [one for one in await self._registry.find(states=states) if one.alias in self._aliases]
        self._not_before = {one.id: self._not_before[one.id] for one in waiting if one.id in self._not_before}
        for adapter in waiting:
            due, pause = self._not_before.get(adapter.id, (0.0, self._retry_s))
            if due > time.monotonic():
                continue
            try:
                await self._examine_one(adapter)
            except Exception as error:
                is_expected = isinstance(error, EngineError | PlumblineError)
                log.warning("%s: not now: %r; again in %.1f s", adapter.id, error, pause, exc_info=not is_expected)
                self._not_before[adapter.id] = (time.monotonic() + pause, min(pause * 2, MAX_PAUSE_S))
        dues = [due - time.monotonic() for due, _ in self._not_before.values()]
        return max(0.01, min([self._idle_s, *dues]))

    def progress(self, adapter: AdapterRecord) -> str | None:
        """How far the adapter's gate is, while it runs."""
        gate = self._gates.get(adapter.alias)
        running = gate.progress if gate is not None else None
        return str(running) if running is not None and running.adapter == adapter.id else None

    async def reject(self, adapter: AdapterRecord, reason: str, report: Report | None = None) -> None:
        """Decline an adapter that is not routed, unless somebody else has moved it meanwhile."""
        if report is None:
            report = Report("decision", "rejected", {"reason": reason}, self._clock())
        if await self._registry.advance(adapter.id, AdapterState.REJECTED, actor=ACTOR, report=report, reason=reason):
            log.warning("%s rejected: %s", adapter.id, reason)

    async def stale_parent(self, adapter: AdapterRecord) -> str | None:
        """Why the adapter is stale, in words; None where all that it grew out of stands."""
        known = {one.id: one for one in await self._registry.find(alias=adapter.alias)}
        unsound = lineage.unsound_ancestor(adapter.id, known)
        return None if unsound is None else f"stale parent: it grew out of {unsound}, which was taken back"

    async def _examine_one(self, adapter: AdapterRecord) -> None:
        reason = await self.stale_parent(adapter)
        if reason is not None:
            await self.reject(adapter, reason)
            return
        if adapter.state is AdapterState.STAGED and not await self._probe(adapter):
            return
        await self._pass_gate(adapter)
        self._not_before.pop(adapter.id, None)
        self._on_gated()

    async def _probe(self, adapter: AdapterRecord) -> bool:
        """Whether the adapter is `verified` now. Every engine must pass it."""
        if not await self._registry.verify(adapter.id):
            await self.reject(adapter, "its files are no longer what was published")
            return False
        for number, engine in enumerate(self._engines):
            started = time.monotonic()
            result = await self._prober.run(engine, adapter)
            elapsed_s = time.monotonic() - started
            self._on_examined(adapter.alias, "probe", result.outcome, elapsed_s)
            body = {
                "checks": [check.model_dump() for check in result.checks],
                "replica": number,
                "elapsed_s": round(elapsed_s, 3),
            }
            report = Report("probe", result.outcome, body, self._clock())
            if result.outcome == "failed":
                await self.reject(adapter, f"probe: {result.reason}", report)
                return False
            await self._registry.add_report(adapter.id, report)
        return await self._registry.advance(adapter.id, AdapterState.VERIFIED, actor=ACTOR)

    async def _pass_gate(self, adapter: AdapterRecord) -> None:
        routing = self._router.current(adapter.alias)
        started = time.monotonic()
        try:
            result = await self._gates[adapter.alias].run(adapter.id, routing.active)
        except EngineError as error:
            if error.retryable:
                raise
            await self.reject(adapter, "gate: the engine refuses what the gate asks for")
            return
        elapsed_s = time.monotonic() - started
        self._on_examined(adapter.alias, "gate", result.outcome, elapsed_s)
        body = {
            "checks": [check.model_dump() for check in result.checks],
            "active": routing.active,
            "generation": routing.generation,
            "elapsed_s": round(elapsed_s, 3),
        }
        report = Report("gate", result.outcome, body, self._clock())
        if result.outcome == "failed":
            failed = ", ".join(check.name for check in result.checks if check.outcome == "failed")
            await self.reject(adapter, f"gate: {failed}", report)
            return
        await self._registry.advance(adapter.id, AdapterState.GATED, actor=ACTOR, report=report, reason=result.outcome)

"""Drives every adapter through its life, in the background: probe, gate, canary, decision.

Two loops, because a gate takes its time and a canary's harm must not wait for it: `_examine` brings staged adapters
to `gated` or `rejected`, `_conduct` starts canaries, watches them and decides. What stands where is only in the
database, so a restart goes on where the last process stood; a canary's evidence is counted again from the stored
requests of its generation.

Rules that the design leaves open:

1. With `automatic` off adapters are still probed and gated, and a running canary is still ended for harm; starting
   and promoting is the operator's.
2. While a canary runs, gated adapters wait. When it has ended, the newest starts and older ones are rejected as
   superseded: they learned from less.
3. An adapter whose parent was rolled back, or that grew out of anything quarantined, is rejected as stale, before
   the probe and again before its canary; a canary whose parent is taken back meanwhile is ended.
4. An expired canary that is kept (`on_expired: keep`) goes on at its share until an operator decides or harm shows.
   So does a canary that an operator forced: what the gate refused is never promoted by itself.

Nothing here reaches a request: errors are logged and tried again with growing pauses, per adapter in `_examine`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from server.adapters import lineage
from server.adapters.evidence import Trial, Verdict
from server.adapters.gate.gate import Gate
from server.adapters.probe import Probe
from server.adapters.registry import AdapterRegistry
from server.adapters.routing import Order, Router
from server.adapters.states import Mover
from server.config import AliasConfig
from server.engine.port import Engine, EngineError
from server.errors import PlumblineError, StaleGeneration
from server.pipeline.task import Assignment
from server.store import audit
from server.store import routing as store
from server.store.database import Database
from server.store.records import AdapterRecord, AdapterState, Report, Routing
from server.wire.base import BASE

log = logging.getLogger(__name__)

ACTOR = "rollout"
REPLAYED_REQUESTS = 20_000
"""Stored requests from which a canary's evidence is counted again after a restart."""
MAX_PAUSE_S = 60.0


class Rollout:
    """The background driver. One for a database; `observe` and `wake` are for the event loop it was started on."""

    def __init__(
        self,
        *,
        database: Database,
        registry: AdapterRegistry,
        router: Router,
        prober: Probe,
        gates: Mapping[str, Gate],
        aliases: Sequence[AliasConfig],
        engines: Sequence[Engine],
        clock: Callable[[], float],
        retry_s: float = 1.0,
        idle_s: float = 30.0,
    ) -> None:
        """`gates`: by alias. `retry_s`: first pause after an error. `idle_s`: longest wait without a `wake`."""
        self._database = database
        self._registry = registry
        self._router = router
        self._prober = prober
        self._gates = gates
        self._aliases = {alias.name: alias for alias in aliases}
        self._engines = tuple(engines)
        self._clock = clock
        self._retry_s = retry_s
        self._idle_s = idle_s
        self._trials: dict[str, Trial] = {}
        self._not_before: dict[str, tuple[float, float]] = {}
        self._wakes = (asyncio.Event(), asyncio.Event())
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Count the evidence of running canaries again, then begin. After `Router.load`, before serving."""
        for alias in self._aliases:
            await self._restore(alias)
        examine, conduct = self._wakes
        self._tasks = [
            asyncio.create_task(self._loop("examine", examine, self._examine)),
            asyncio.create_task(self._loop("conduct", conduct, self._conduct)),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def wake(self) -> None:
        """Something was uploaded or moved: look at once."""
        for event in self._wakes:
            event.set()

    def observe(self, alias: str, assignment: Assignment, blocked: bool, failed: bool) -> None:
        """Count one finished request. Never raises, never waits."""
        routing = self._router.current(alias)
        if routing.canary is None or routing.generation != assignment.generation:
            return
        trial = self._trial(routing)
        before = trial.verdict
        failed = failed or (assignment.is_canary and assignment.adapter == BASE)  # the engine could not load it
        trial.add(is_canary=assignment.is_canary, is_harm=blocked or failed)
        if trial.verdict is not before:
            self._wakes[1].set()

    def progress(self, adapter: AdapterRecord) -> str | None:
        """How far the adapter's gate is, while it runs."""
        gate = self._gates.get(adapter.alias)
        running = gate.progress if gate is not None else None
        return str(running) if running is not None and running.adapter == adapter.id else None

    def evidence(self, alias: str) -> Trial | None:
        """The running canary's evidence."""
        routing = self._router.current(alias)
        return self._trial(routing) if routing.canary is not None else None

    def _trial(self, routing: Routing) -> Trial:
        trial = self._trials.get(routing.alias)
        if trial is None or trial.generation != routing.generation:
            settings = self._aliases[routing.alias].rollout
            trial = Trial(routing.generation, settings.harm_margin, settings.harm_alpha, settings.canary_requests)
            self._trials[routing.alias] = trial
        return trial

    async def _restore(self, alias: str) -> None:
        routing = self._router.current(alias)
        if routing.canary is None:
            return
        trial = self._trial(routing)
        for one in await self._database.read(lambda c: store.answered(c, routing, REPLAYED_REQUESTS)):
            trial.add(is_canary=one.is_canary, is_harm=one.was_blocked or one.has_failed)

    # --- the loops ----------------------------------------------------------------------------------------

    async def _loop(self, name: str, event: asyncio.Event, step: Callable[[], Awaitable[float]]) -> None:
        pause = self._retry_s
        while True:
            event.clear()
            try:
                wait = await step()
                pause = self._retry_s
            except StaleGeneration:
                continue  # an operator was faster: look again
            except Exception:
                log.exception("rollout (%s) failed; trying again in %.1f s", name, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_S)
                continue
            # Not wait_for: in Python 3.11 it can swallow a cancellation that meets the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await event.wait()

    async def _examine(self) -> float:
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

    async def _examine_one(self, adapter: AdapterRecord) -> None:
        unsound = await self._unsound_ancestor(adapter)
        if unsound is not None:
            await self._reject(adapter, f"stale parent: it grew out of {unsound}, which was taken back")
            return
        if adapter.state is AdapterState.STAGED and not await self._probe(adapter):
            return
        await self._pass_gate(adapter)
        self._not_before.pop(adapter.id, None)
        self._wakes[1].set()

    async def _probe(self, adapter: AdapterRecord) -> bool:
        """Whether the adapter is `verified` now. Every engine must pass it."""
        if not await self._registry.verify(adapter.id):
            await self._reject(adapter, "its files are no longer what was published")
            return False
        for number, engine in enumerate(self._engines):
            started = time.monotonic()
            result = await self._prober.run(engine, adapter)
            body = {
                "checks": [check.model_dump() for check in result.checks],
                "replica": number,
                "elapsed_s": round(time.monotonic() - started, 3),
            }
            report = Report("probe", result.outcome, body, self._clock())
            if result.outcome == "failed":
                await self._reject(adapter, f"probe: {result.reason}", report)
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
            await self._reject(adapter, "gate: the engine refuses what the gate asks for")
            return
        body = {
            "checks": [check.model_dump() for check in result.checks],
            "active": routing.active,
            "generation": routing.generation,
            "elapsed_s": round(time.monotonic() - started, 3),
        }
        report = Report("gate", result.outcome, body, self._clock())
        if result.outcome == "failed":
            failed = ", ".join(check.name for check in result.checks if check.outcome == "failed")
            await self._reject(adapter, f"gate: {failed}", report)
            return
        await self._registry.advance(adapter.id, AdapterState.GATED, actor=ACTOR, report=report, reason=result.outcome)

    async def _reject(self, adapter: AdapterRecord, reason: str, report: Report | None = None) -> None:
        if report is None:
            report = Report("decision", "rejected", {"reason": reason}, self._clock())
        if await self._registry.advance(adapter.id, AdapterState.REJECTED, actor=ACTOR, report=report, reason=reason):
            log.warning("%s rejected: %s", adapter.id, reason)

    async def _conduct(self) -> float:
        for alias in self._aliases.values():
            await self._conduct_alias(alias)
        return self._idle_s

    async def _conduct_alias(self, alias: AliasConfig) -> None:
        routing = self._router.current(alias.name)
        if routing.canary is not None:
            await self._decide(alias, routing)
        if self._router.current(alias.name).canary is None and alias.rollout.automatic:
            await self._next_canary(alias)

    async def _decide(self, alias: AliasConfig, routing: Routing) -> None:
        """End, promote or keep the canary that runs."""
        assert routing.canary is not None
        trial = self._trial(routing)
        verdict = trial.verdict
        if verdict is Verdict.HARMFUL:
            await self._router.end_canary(alias.name, self._order(routing, "harm shown", "rolled_back", trial))
            return
        canary = await self._registry.get(routing.canary)
        is_forced = await self._is_forced(canary.id)
        unsound = await self._unsound_ancestor(canary)
        if unsound is not None and not is_forced:
            reason = f"stale parent: it grew out of {unsound}, which was taken back"
            await self._router.end_canary(alias.name, self._order(routing, reason, "rolled_back", trial))
        elif verdict is Verdict.EXPIRED:
            may_promote = alias.rollout.automatic and alias.rollout.on_expired == "promote" and not is_forced
            await self._expire(routing, trial, may_promote=may_promote)

    async def _expire(self, routing: Routing, trial: Trial, *, may_promote: bool) -> None:
        assert routing.canary is not None
        if may_promote:
            order = self._order(routing, "expired without harm shown", "promoted", trial)
            await self._router.promote(routing.canary, order)
            return
        reports = await self._registry.reports(routing.canary)
        if not any(one.kind == "canary" and one.body.get("generation") == routing.generation for one in reports):
            report = Report("canary", "expired", trial.summary(), self._clock())
            await self._registry.add_report(routing.canary, report)

    async def _is_forced(self, adapter_id: str) -> bool:
        """Whether an operator forced the adapter's canary: then nobody but an operator promotes it."""
        entries = await self._database.read(lambda c: audit.newest(c, 20, adapter_id))
        started = [entry for entry in entries if entry.action == "canary"]
        return bool(started) and any(entry.detail.get("force") for entry in started)

    def _order(self, routing: Routing, reason: str, outcome: str, trial: Trial) -> Order:
        report = Report("canary", outcome, {"reason": reason, **trial.summary()}, self._clock())
        return Order(ACTOR, Mover.SERVER, reason, routing.generation, report=report)

    async def _next_canary(self, alias: AliasConfig) -> None:
        gated = await self._registry.find(alias=alias.name, states={AdapterState.GATED})
        if not gated:
            return
        *older, newest = gated
        unsound = await self._unsound_ancestor(newest)
        if unsound is not None:
            await self._reject(newest, f"stale parent: it grew out of {unsound}, which was taken back")
            await self._next_canary(alias)
            return
        reports = await self._registry.reports(newest.id)
        outcomes = [report.outcome for report in reports if report.kind == "gate"]
        is_clear = bool(outcomes) and outcomes[-1] == "passed"
        share = alias.rollout.canary_share if is_clear else alias.rollout.inconclusive_share
        reason = "gate passed" if is_clear else "gate inconclusive"
        if share <= 0:
            return  # nobody would ever see it: an operator decides
        for one in older:
            await self._reject(one, f"superseded by {newest.id}")
        await self._router.start_canary(newest.id, share, Order(ACTOR, Mover.SERVER, reason))

    async def _unsound_ancestor(self, adapter: AdapterRecord) -> str | None:
        known = {one.id: one for one in await self._registry.find(alias=adapter.alias)}
        return lineage.unsound_ancestor(adapter.id, known)

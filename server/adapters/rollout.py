"""Drives every adapter through its life, in the background: probe, gate, canary, decision.

Two loops, because a gate takes its time and a canary's harm must not wait for it: the `Examiner` brings staged adapters
to `gated` or `rejected`; the other starts canaries, reads what came in and decides. What stands where is only in the
database, so a restart goes on where the last process stood, and several servers on one database see the same.

Rules that the design leaves open:

1. With `automatic` off adapters are still probed and gated, and a running canary is still ended for harm; starting
   and promoting is the operator's.
2. While a canary runs, gated adapters wait. When it has ended, the newest starts and older ones are rejected as
   superseded: they learned from less.
3. A canary whose parent is taken back meanwhile is ended.
4. An expired canary that is kept (`on_expired: keep`) goes on at its share until an operator decides or the evidence
   does. So does a canary that an operator forced: what the gate refused is never promoted by itself.
5. `server.adapters.restraint` may hold back a start or a promotion, never the end of a canary.

Nothing here reaches a request: errors are logged and tried again with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from server.adapters import restraint
from server.adapters.canary.trial import Trial, Verdict
from server.adapters.examination import ACTOR, Examiner
from server.adapters.following import Follower, Run
from server.adapters.gate.gate import Gate
from server.adapters.probe import Probe
from server.adapters.registry import AdapterRegistry
from server.adapters.repeating import repeat
from server.adapters.restraint import HARM_SHOWN, Wait
from server.adapters.routing import Order, Router
from server.adapters.states import SHADOWABLE, Mover
from server.config import AliasConfig
from server.engine.port import Engine
from server.store import audit
from server.store.database import Database
from server.store.records import AdapterRecord, AdapterState, Report, Routing
from server.wire.operate import AuditEntry

log = logging.getLogger(__name__)


class Rollout:
    """The background driver. `wake` is for the event loop it was started on."""

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
        on_examined: Callable[[str, str, str, float], None] = lambda alias, examination, outcome, seconds: None,
    ) -> None:
        """`gates`: by alias. `retry_s`: first pause after an error. `idle_s`: longest wait without a `wake`."""
        self._database = database
        self._registry = registry
        self._router = router
        self._aliases = {alias.name: alias for alias in aliases}
        self._clock = clock
        self._retry_s = retry_s
        self._idle_s = idle_s
        self._follower = Follower(database, {alias.name: alias.rollout for alias in aliases})
        self._waits: dict[str, Wait] = {}
        self._wakes = (asyncio.Event(), asyncio.Event())
        self._tasks: list[asyncio.Task[None]] = []
        self._examiner = Examiner(
            registry=registry,
            router=router,
            prober=prober,
            gates=gates,
            aliases=self._aliases,
            engines=engines,
            clock=clock,
            on_gated=self._wakes[1].set,
            on_examined=on_examined,
            retry_s=retry_s,
            idle_s=idle_s,
        )

    async def start(self) -> None:
        """After `Router.load`."""
        examine, conduct = self._wakes
        self._tasks = [
            asyncio.create_task(repeat("examine", examine, self._examiner.examine, retry_s=self._retry_s)),
            asyncio.create_task(repeat("conduct", conduct, self._conduct, retry_s=self._retry_s)),
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

    def evidence(self, alias: str) -> Run | None:
        """The running canary's evidence, as it was read last."""
        run = self._follower.known(alias)
        return run if run is not None and run.record.canary == self._router.current(alias).canary else None

    def progress(self, adapter: AdapterRecord) -> str | None:
        """How far the adapter's gate is, while it runs."""
        return self._examiner.progress(adapter)

    def canary_answers(self, alias: str) -> int:
        """How many answers of the running canary count."""
        run = self.evidence(alias)
        return 0 if run is None else run.canary_answers

    def waiting(self, alias: str) -> Wait | None:
        """Why the server does not start or promote a canary that it has, as it was looked at last."""
        return self._waits.get(alias)

    # --- deciding -----------------------------------------------------------------------------------------

    async def _conduct(self) -> float:
        """Look after every alias; how long to wait for the next look."""
        waits = [await self._conduct_alias(alias) for alias in self._aliases.values()]
        return min([self._idle_s, *waits])

    async def _conduct_alias(self, alias: AliasConfig) -> float:
        await self._end_stale_shadow(alias.name)
        routing, wait = self._router.current(alias.name), None
        if routing.canary is not None:
            wait = await self._decide(alias, routing)
        if self._router.current(alias.name).canary is None:
            wait = await self._next_canary(alias)
        self._tell(alias.name, wait)
        pauses = [self._idle_s]
        routing = self._router.current(alias.name)
        if routing.canary is not None or routing.shadow is not None:
            pauses.append(alias.rollout.poll_s)
        if wait is not None and wait.until is not None:
            pauses.append(max(wait.until - self._clock(), self._retry_s))
        return min(pauses)

    async def _end_stale_shadow(self, alias: str) -> None:
        """An adapter that was declined outside of routing (superseded, stale) is no shadow any more."""
        shadow = self._router.current(alias).shadow
        if shadow is not None and (await self._registry.get(shadow)).state not in SHADOWABLE:
            await self._router.set_shadow(shadow, 0.0, Order(ACTOR, Mover.SERVER, "it was declined"))

    async def _decide(self, alias: AliasConfig, routing: Routing) -> Wait | None:
        """End, promote or keep the canary that runs."""
        assert routing.canary is not None
        run = await self._follower.read(routing)
        if run is None:
            return None
        verdict = run.trial.verdict
        if verdict is Verdict.HARMFUL:
            await self._router.end_canary(alias.name, self._order(routing, HARM_SHOWN, "rolled_back", run.trial))
            return None
        canary = await self._registry.get(routing.canary)
        is_forced = await self._is_forced(canary.id)
        stale = await self._examiner.stale_parent(canary)
        if stale is not None and not is_forced:
            await self._router.end_canary(alias.name, self._order(routing, stale, "rolled_back", run.trial))
            return None
        if verdict is Verdict.RUNNING:
            return None
        reason = _left_to_operators(alias, verdict, is_forced=is_forced)
        if reason is None:
            return await self._promote(alias, routing, run)
        if verdict is Verdict.EXPIRED:
            await self._note_expired(run)
        return Wait(f"{canary.id}: {reason}: an operator decides")

    async def _promote(self, alias: AliasConfig, routing: Routing, run: Run) -> Wait | None:
        moves = await self._own_moves(alias)
        wait = restraint.before_promotion(alias.rollout, run.record.started_at, moves, self._clock())
        if wait is None:
            is_shown = run.trial.verdict is Verdict.PROMISING
            reason = "shown not to be worse" if is_shown else "expired without harm shown"
            await self._router.promote(run.record.canary, self._order(routing, reason, "promoted", run.trial))
        return wait

    async def _note_expired(self, run: Run) -> None:
        """Once for each run."""
        reports = await self._registry.reports(run.record.canary)
        if not any(one.kind == "canary" and one.body.get("generation") == run.record.generation for one in reports):
            report = Report("canary", "expired", run.trial.summary(), self._clock())
            await self._registry.add_report(run.record.canary, report)

    async def _next_canary(self, alias: AliasConfig) -> Wait | None:
        """Start the newest gated adapter, if there is one and nothing is in its way."""
        gated = await self._registry.find(alias=alias.name, states={AdapterState.GATED})
        if gated and not alias.rollout.automatic:
            return Wait(f"{gated[-1].id}: automatic is off: an operator decides")
        while gated and (stale := await self._examiner.stale_parent(gated[-1])) is not None:
            await self._examiner.reject(gated.pop(), stale)
        if not gated:
            return None
        *older, newest = gated
        reports = await self._registry.reports(newest.id)
        outcomes = [report.outcome for report in reports if report.kind == "gate"]
        is_clear = bool(outcomes) and outcomes[-1] == "passed"
        share = alias.rollout.canary_share if is_clear else alias.rollout.inconclusive_share
        if share <= 0:
            return Wait(f"{newest.id}: its share would be 0, nobody would ever see it: an operator decides")
        wait = restraint.before_canary(alias.rollout, await self._own_moves(alias), self._clock())
        if wait is None:
            for one in older:
                await self._examiner.reject(one, f"superseded by {newest.id}")
            reason = "gate passed" if is_clear else "gate inconclusive"
            await self._router.start_canary(newest.id, share, Order(ACTOR, Mover.SERVER, reason))
        return wait

    async def _own_moves(self, alias: AliasConfig) -> list[AuditEntry]:
        since = self._clock() - restraint.horizon_s(alias.rollout)
        return await self._database.read(lambda c: audit.moves_by(c, ACTOR, alias.name, since))

    async def _is_forced(self, adapter_id: str) -> bool:
        """Whether an operator forced the adapter's canary: then nobody but an operator promotes it."""
        entries = await self._database.read(lambda c: audit.newest(c, 20, adapter_id))
        started = [entry for entry in entries if entry.action == "canary"]
        return bool(started) and any(entry.detail.get("force") for entry in started)

    def _order(self, routing: Routing, reason: str, outcome: str, trial: Trial) -> Order:
        report = Report("canary", outcome, {"reason": reason, **trial.summary()}, self._clock())
        return Order(ACTOR, Mover.SERVER, reason, routing.generation, report=report)

    def _tell(self, alias: str, wait: Wait | None) -> None:
        """Let operators see what is waited for; the log says it once."""
        if wait is None:
            self._waits.pop(alias, None)
            return
        if self._waits.get(alias) != wait:
            log.info("%s: waiting: %s", alias, wait.reason)
        self._waits[alias] = wait


def _left_to_operators(alias: AliasConfig, verdict: Verdict, *, is_forced: bool) -> str | None:
    """Why the server does not promote a canary by itself, though it has proved itself or its time is over."""
    if is_forced:
        return "the gate refused it"
    if not alias.rollout.automatic:
        return "automatic is off"
    if verdict is Verdict.EXPIRED and alias.rollout.on_expired == "keep":
        return "it has expired and is kept"
    return None

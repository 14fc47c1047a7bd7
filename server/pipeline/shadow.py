"""Shadows: another adapter answers a share of the requests too, once the user's own answer is stored.

Its answer is made and judged as the user's was (same prompt, sampling and number of candidates), compared, and thrown
away: it is shown to nobody, told to no feed, and only what it was worth is kept. It delays and fails no request: there
is no queue, so whatever finds no place, or a busy engine, is dropped; errors end here; shutting down cancels.

Compared are requests that the active adapter answered, but for stepwise ones, which take many requests each. The draw
is made for each request, not for each user: both answers are to the same question.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Callable, Mapping

from reward.selection import choose
from reward.types import Judgement
from server.config import ShadowConfig
from server.engine.port import Engine, EngineError
from server.metrics import Metrics
from server.pipeline.judges import Judges
from server.pipeline.task import ChatTask, Outcome
from server.store import shadows
from server.store.database import Database
from server.store.records import GroupState, Routing, ShadowRecord

log = logging.getLogger(__name__)


class Shadows:
    """For one event loop. `routing` says who serves an alias now; `is_busy`, whether the engine has enough to do."""

    def __init__(
        self,
        *,
        engine: Engine,
        database: Database,
        judges: Mapping[str, Judges],
        routing: Callable[[str], Routing],
        metrics: Metrics,
        settings: ShadowConfig,
        is_busy: Callable[[], bool],
        timeout_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._database = database
        self._judges = judges
        self._routing = routing
        self._metrics = metrics
        self._settings = settings
        self._is_busy = is_busy
        self._timeout_s = timeout_s
        self._draw = draw
        self._running: set[asyncio.Task[None]] = set()

    def offer(self, task: ChatTask, outcome: Outcome) -> None:
        """A request whose group is stored. Never raises, never waits."""
        routing = self._routing(task.alias.name)
        if routing.shadow is None or not _is_comparable(task, outcome, routing):
            return
        if self._draw() >= routing.shadow_share:
            return
        if len(self._running) >= self._settings.concurrent or self._is_busy():
            self._metrics.shadows.labels(task.alias.name, "dropped").inc()
            return
        running = asyncio.create_task(self._run(routing.shadow, task, outcome), name="shadow")
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, adapter: str, task: ChatTask, outcome: Outcome) -> None:
        """Never raises: nobody waits for it."""
        alias = task.alias.name
        try:
            record = await self._answer(adapter, task, outcome)
            is_kept = await self._database.write(lambda c: shadows.add(c, record))
            what = "dropped" if not is_kept else "failed" if record.has_failed else "answered"
            self._metrics.shadows.labels(alias, what).inc()
        except Exception:
            self._metrics.shadows.labels(alias, "dropped").inc()
            log.exception("could not keep what a shadow answered")

    async def _answer(self, adapter: str, task: ChatTask, outcome: Outcome) -> ShadowRecord:
        judges, started = self._judges[task.alias.name], time.monotonic()
        judgements: tuple[Judgement, ...] = ()
        reward = None
        has_failed = False
        try:
            async with asyncio.timeout(self._timeout_s):
                made = await self._engine.generate(adapter, task.prompt, len(outcome.judgements), task.sampling)
                named = tuple(dataclasses.replace(one, adapter=adapter) for one in made.candidates)
                judgements, _ = await judges.judge(task.prompt, named, observe=False)
        except (EngineError, TimeoutError) as error:
            log.warning("shadow %s: %s", adapter, error or type(error).__name__)
            has_failed = True
        duration_s = time.monotonic() - started
        chosen = choose(task.strategy, judgements, draw=self._draw()).index if judgements else None
        if chosen is not None:
            reward = await judges.reward_of(task.prompt, judgements[chosen])
        shown = outcome.judgements[outcome.shown[0]] if outcome.shown else None
        return ShadowRecord(
            group_id=task.completion_id,
            adapter=adapter,
            is_blocked=any(one.is_blocked for one in judgements),
            has_failed=has_failed,
            reward=reward,
            active_reward=await judges.reward_of(task.prompt, shown) if shown is not None else None,
            duration_s=duration_s,
            created_at=task.created_at,
        )


def _is_comparable(task: ChatTask, outcome: Outcome, routing: Routing) -> bool:
    return (
        task.is_stored
        and not task.is_stepwise
        and outcome.state is GroupState.COMPLETED
        and bool(outcome.judgements)
        and not outcome.assignment.is_canary
        and outcome.assignment.adapter == routing.active
    )

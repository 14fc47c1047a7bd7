"""Who serves whom: each alias's routing row, read from memory at every request, moved by compare-and-swap.

A move is one transaction: the row's generation is checked and grows by one, the adapters' states change, the audit
entry is written. The copy in memory follows once that is durable, so the request after a move's reply already sees
it. A caller that names no generation means the one it sees now: of two concurrent moves exactly one wins, the
other gets `StaleGeneration`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Connection

from server import faults
from server.adapters import forgetting, lineage, moves, states
from server.adapters.forgetting import Forgetting, Remedy
from server.adapters.moves import Plan
from server.adapters.quarantine import set_behind
from server.adapters.states import Mover
from server.config.selection import PilafConfig
from server.errors import BadRequest, NotFound, StaleGeneration, StorageUnavailable
from server.pipeline.task import Assignment
from server.store import adapters as rows
from server.store import audit, evidence
from server.store import routing as store
from server.store.database import Database
from server.store.records import AdapterRecord, AdapterState, Report, Routing
from server.wire.base import BASE

log = logging.getLogger(__name__)

T = TypeVar("T")

SETTLE_S = 0.2
"""Pause between two looks at a database that does not answer."""
SERVER = "server"
"""The actor of moves that nobody asked for."""


MovingTo = Callable[[str | None, bool], AbstractAsyncContextManager[None]]
"""(the adapter that is about to get traffic, or None; whether this is a way back that must not fail)."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks for a move, why, and on which view of routing."""

    actor: str
    mover: Mover = Mover.OPERATOR
    reason: str = ""
    expect_generation: int | None = None
    """Refuse unless routing stands there; None: unless it stands where it stands now."""
    force: bool = False
    """Operators: also what was rejected, also what grew out of something that was taken back."""
    report: Report | None = None
    """Kept with the move, under its subject."""


class Router:
    """Routing of every alias. Safe for concurrent use on one event loop.

    `is_intact` says cheaply whether an adapter can be served: a rollback never goes to one that is not. `verify` reads
    every byte to say so: before anything new is routed to, and at the start.
    `on_move` is told each state change that is durable, `on_moved` what was ordered and how many seconds it took until
    requests followed. `moving_to(adapter, is_way_back)` is entered around each move that gives an adapter traffic; it
    raises where the engines are not ready for that.
    """

    def __init__(
        self,
        database: Database,
        aliases: Sequence[str],
        *,
        clock: Callable[[], float],
        verify: Callable[[str], Awaitable[bool]],
        is_intact: Callable[[str], bool] = lambda _: True,
        draw: Callable[[], float] = random.random,
        on_move: Callable[[str, AdapterState], None] = lambda alias, state: None,
        on_moved: Callable[[str, float], None] = lambda action, seconds: None,
        moving_to: MovingTo = lambda adapter, is_way_back: nullcontext(),
    ) -> None:
        self._moving_to = moving_to
        self._database = database
        self._aliases = tuple(aliases)
        self._clock = clock
        self._is_intact = is_intact
        self._verify = verify
        self._draw = draw
        self._on_move = on_move
        self._on_moved = on_moved
        self._routings: dict[str, Routing] = {}
        self._doubted: set[str] = set()
        """Aliases with a move of which the database did not say whether it was made."""
        self._settling: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Read every alias's row; a new alias starts with base. Before the first request."""
        now = self._clock()

        def run(connection: Connection) -> list[Routing]:
            found = []
            for alias in self._aliases:
                routing = store.get_routing(connection, alias)
                if routing is None:
                    routing = Routing(alias, updated_at=now)
                    store.create_routing(connection, routing)
                found.append(routing)
            return found

        self._routings = {routing.alias: routing for routing in await self._database.write(run)}

    async def stop(self) -> None:
        """Settle nothing any more."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)

    async def heal(self) -> None:
        """Route away from adapters whose files are no longer what was published. After `load`, before serving."""
        order = Order(SERVER, Mover.SERVER, "its files are damaged")
        for routing in list(self._routings.values()):
            if routing.previous is not None and not await self._verify(routing.previous):
                log.error("adapter %s is damaged and cannot be rolled back to", routing.previous)
            while not await self._verify(self.current(routing.alias).active):
                log.error("adapter %s is damaged; rolling back", self.current(routing.alias).active)
                await self.rollback(routing.alias, order)
            canary = self.current(routing.alias).canary
            if canary is not None and not await self._verify(canary):
                log.error("canary %s is damaged; ending it", canary)
                await self.end_canary(routing.alias, order)
            shadow = self.current(routing.alias).shadow
            if shadow is not None and not await self._verify(shadow):
                log.error("shadow %s is damaged; ending it", shadow)
                await self.set_shadow(shadow, 0.0, order)

    # --- reading ------------------------------------------------------------------------------------------

    def current(self, alias: str) -> Routing:
        """Raises `NotFound` (`model_not_found`)."""
        try:
            return self._routings[alias]
        except KeyError:
            raise NotFound("There is no such alias.", param="alias", code="model_not_found") from None

    def all(self) -> list[Routing]:
        return [self._routings[alias] for alias in self._aliases]

    def assign(self, alias: str, user_key: str | None) -> Assignment:
        """Who serves this request. A user stays with a canary for as long as it runs, also when its share grows."""
        routing = self.current(alias)
        if routing.canary is None:
            return Assignment(routing.active, routing.generation)
        place = self._draw() if user_key is None else _place(routing.canary, user_key)
        if place < routing.canary_share:
            return Assignment(routing.canary, routing.generation, is_canary=True)
        return Assignment(routing.active, routing.generation)

    def beside(self, alias: str, assignment: Assignment, settings: PilafConfig) -> str | None:
        """The policy whose answer a comparison is with, by draw; None: the assigned one's own, or there is no other."""
        other = (settings.other == "previous" and self.current(alias).previous) or BASE
        is_drawn = other != assignment.adapter and self._draw() < settings.share
        return other if is_drawn else None

    def adopt(self, routing: Routing) -> None:
        """Take over a row that another server has moved; an older one changes nothing."""
        self._keep(routing)

    # --- moves --------------------------------------------------------------------------------------------

    async def start_canary(self, adapter_id: str, share: float, order: Order) -> Routing:
        """Try an adapter on a share of the users; of the present canary: change its share."""

        def plan(connection: Connection, routing: Routing) -> Plan:
            record = _require_adapter(connection, adapter_id)
            if record.state is AdapterState.REJECTED and not order.force:
                raise BadRequest("The adapter was rejected; `force` brings it to canary all the same.", param="force")
            if not order.force:
                _require_sound(connection, record)
            self._require_intact(adapter_id)
            return moves.start_canary(routing, adapter_id, share)

        return await self._move_to(adapter_id, "canary", plan, order)

    async def promote(self, adapter_id: str, order: Order) -> Routing:
        """Make the canary, or (operators) a gated adapter, the active one."""

        def plan(connection: Connection, routing: Routing) -> Plan:
            record = _require_adapter(connection, adapter_id)
            # The table lets these back in by rollback and undo alone, which check more than the state.
            if record.state in (AdapterState.RETIRED, AdapterState.ROLLED_BACK):
                raise BadRequest(f"An adapter that is {record.state.value} cannot be promoted.", code="illegal_move")
            if not order.force:
                _require_sound(connection, record)
            self._require_intact(adapter_id)
            return moves.promote(routing, adapter_id)

        return await self._move_to(adapter_id, "promote", plan, order)

    async def set_shadow(self, adapter_id: str, share: float, order: Order) -> Routing:
        """Let an adapter answer a share of the requests too, unseen; 0 ends it."""

        def plan(connection: Connection, routing: Routing) -> Plan:
            record = _require_adapter(connection, adapter_id)
            if share > 0:
                if record.state not in states.SHADOWABLE:
                    raise BadRequest(
                        f"An adapter that is {record.state.value} cannot be a shadow.", code="illegal_move"
                    )
                self._require_intact(adapter_id)
            return moves.set_shadow(routing, adapter_id, share)

        if share > 0:
            return await self._move_to(adapter_id, "shadow", plan, order)
        return await self._move((await self._record(adapter_id)).alias, "shadow", adapter_id, plan, order)

    async def end_canary(self, alias: str, order: Order) -> Routing:
        """Take the canary out of routing; it is `rolled_back`."""
        subject = self.current(alias).canary or alias
        return await self._move(alias, "end_canary", subject, lambda _, routing: moves.end_canary(routing), order)

    async def rollback(self, alias: str, order: Order) -> Routing:
        """The previous active adapter, or base, takes all traffic."""

        def plan(connection: Connection, routing: Routing) -> Plan:
            return moves.roll_back(routing, self._targets(connection, routing, routing.active))

        async with self._moving_to(self.current(alias).previous, True):
            return await self._move(alias, "rollback", alias, plan, order)

    async def undo(self, alias: str, order: Order) -> Routing:
        """Bring back what the last rollback took out."""

        def plan(connection: Connection, routing: Routing) -> Plan:
            noted = store.last_rollback(connection, alias)
            if noted is None or noted["before"]["active"] == noted["after"]["active"]:
                raise BadRequest("There is no rollback to undo.", code="illegal_move")
            replaced = noted["before"]["active"]
            self._require_intact(replaced)
            return moves.undo(routing, replaced=replaced, target=noted["after"]["active"])

        noted = await self._database.read(lambda c: store.last_rollback(c, alias))
        async with self._moving_to(noted["before"]["active"] if noted else None, False):
            return await self._move(alias, "undo", alias, plan, order)

    async def reject(self, adapter_id: str, order: Order) -> Routing:
        """Decline an adapter that is not routed; of a canary: end it."""
        record = await self._record(adapter_id)
        if record.state is AdapterState.CANARY:

            def end(connection: Connection, routing: Routing) -> Plan:
                if routing.canary != adapter_id:  # another one may run by now, and nobody meant that
                    raise _stale()
                return moves.end_canary(routing)

            return await self._move(record.alias, "end_canary", adapter_id, end, order)
        if self.current(record.alias).shadow == adapter_id:

            def decline(_: Connection, routing: Routing) -> Plan:
                return moves.reject_shadow(routing, adapter_id)

            return await self._move(record.alias, "reject", adapter_id, decline, order)
        return await self._restate(record, AdapterState.REJECTED, "reject", order)

    async def quarantine(self, adapter_id: str, order: Order) -> tuple[Routing, int]:
        """Never serve it again, and set the signals behind it aside: routing afterwards, and how many those were.

        What is routed is routed away from in the same move.
        """
        record = await self._record(adapter_id)
        routing = self.current(record.alias)
        changed = 0

        def set_aside(connection: Connection) -> dict[str, Any]:
            nonlocal changed
            changed = set_behind(connection, record, aside=True, now=self._clock())
            return {"signals_set_aside": changed}

        def plan(connection: Connection, routing: Routing) -> Plan:
            planned = moves.quarantine(routing, adapter_id, self._targets(connection, routing, adapter_id))
            if planned is None:
                raise _stale()
            return replace(planned, note=set_aside(connection))

        if adapter_id in (routing.active, routing.canary, routing.previous, routing.shadow):
            async with self._moving_to(routing.previous if adapter_id == routing.active else None, True):
                return await self._move(record.alias, "quarantine", adapter_id, plan, order), changed
        return await self._restate(record, AdapterState.QUARANTINED, "quarantine", order, set_aside), changed

    async def forgetting(self, tainted: Collection[str]) -> list[Forgetting]:
        """What there is to do about adapters that must be forgotten, for each alias that has any of them."""

        def read(connection: Connection) -> list[Forgetting]:
            plans = [self._forgetting(connection, self.current(alias), tainted) for alias in self._aliases]
            return [one for one in plans if one.adapters]

        return await self._database.read(read)

    async def forget(self, alias: str, tainted: Collection[str], remedy: Remedy, order: Order) -> Routing:
        """Take these adapters and all that grew from them out for ever, whatever routes to them.

        `retrain` also has the learner begin again behind what the adapter that then serves has learned.
        """

        def plan(connection: Connection, routing: Routing) -> Plan:
            found = self._forgetting(connection, routing, tainted)
            targets = self._targets(connection, routing, routing.active)
            planned = moves.forget(routing, found.adapters, found.active, targets)
            note = {"adapters": list(found.adapters), "feed_after": found.learned_upto}
            return replace(planned, note=note)

        clean = next((one.active for one in await self.forgetting(tainted) if one.alias == alias), None)
        async with self._moving_to(clean, True):
            return await self._move(alias, remedy, alias, plan, order)

    def _forgetting(self, connection: Connection, routing: Routing, tainted: Collection[str]) -> Forgetting:
        known = {one.id: one for one in rows.list_adapters(connection, alias=routing.alias)}
        return forgetting.plan(routing, tainted, known, self._is_intact)

    # --- how moves are made -------------------------------------------------------------------------------

    async def _move_to(
        self, adapter_id: str, action: str, plan: Callable[[Connection, Routing], Plan], order: Order
    ) -> Routing:
        """A move that gives an adapter traffic. What is refused anyway is refused before any engine is asked."""
        alias = await self._alias_of_sound(adapter_id)
        expected = self._expected(alias, order)

        def check(connection: Connection) -> None:
            for one, state in plan(connection, _require_generation(connection, alias, expected)).states:
                record = rows.get_adapter(connection, one)
                if record is not None:
                    states.require_move(record.state, state, order.mover)

        try:
            await self._database.read(check)
        except StaleGeneration:
            await self._refresh(alias)
            raise
        async with self._moving_to(adapter_id, False):
            return await self._move(alias, action, adapter_id, plan, replace(order, expect_generation=expected))

    async def _move(
        self, alias: str, action: str, subject: str, plan: Callable[[Connection, Routing], Plan], order: Order
    ) -> Routing:
        expected = self._expected(alias, order)
        now, started_s = self._clock(), time.monotonic()

        def run(connection: Connection) -> tuple[Routing, Plan]:
            before = _require_generation(connection, alias, expected)
            planned = plan(connection, before)
            after = replace(planned.routing, generation=before.generation + 1, updated_at=now)
            for adapter_id, state in planned.states:
                _change_state(connection, adapter_id, state, order.mover, now)
            if not store.swap_routing(connection, before.generation, after):
                raise _stale()
            if after.canary is not None and _compared(after) != _compared(before):
                evidence.begin_trial(connection, after)
            if order.report is not None:
                rows.add_report(connection, subject, order.report)
            detail = {"before": asdict(before), "after": asdict(after), "reason": order.reason, "force": order.force}
            detail |= planned.note
            audit.record(connection, actor=order.actor, action=action, subject=subject, detail=detail, now=now)
            faults.point("move.before_commit")
            return after, planned

        after, planned = await self._write(alias, run)
        await faults.async_point("move.after_commit")
        self._keep(after)
        self._on_moved(action, time.monotonic() - started_s)
        for _, state in planned.states:
            self._on_move(alias, state)
        log.info("%s: %s of %s, now at generation %d", alias, action, subject, after.generation)
        return after

    async def _restate(
        self,
        record: AdapterRecord,
        state: AdapterState,
        action: str,
        order: Order,
        also: Callable[[Connection], dict[str, Any]] = lambda connection: {},
    ) -> Routing:
        """A move that leaves routing alone. `also`: what goes with it, and the audit trail's note of that."""
        expected = self._expected(record.alias, order)
        now = self._clock()

        def run(connection: Connection) -> None:
            standing = _require_generation(connection, record.alias, expected)
            states.require_move(record.state, state, order.mover)
            is_way_back = record.id == standing.previous and state is AdapterState.QUARANTINED
            if record.id in (standing.active, standing.canary, standing.shadow) or is_way_back:
                raise _stale()  # routing moved between the look and now
            _change_state(connection, record.id, state, order.mover, now)
            detail = {"state": state.value, "reason": order.reason, **also(connection)}
            audit.record(connection, actor=order.actor, action=action, subject=record.id, detail=detail, now=now)

        await self._write(record.alias, run)
        self._on_move(record.alias, state)
        return self.current(record.alias)

    async def _write(self, alias: str, run: Callable[[Connection], T]) -> T:
        """A move's transaction; where it fails, the copy in memory catches up with the row."""
        try:
            return await self._database.write(run)
        except StaleGeneration:
            await self._refresh(alias)
            raise
        except StorageUnavailable:  # it may have been made all the same
            self._doubted.add(alias)
            if self._settling is None or self._settling.done():
                self._settling = asyncio.create_task(self._settle(), name="routing in doubt")
            raise

    async def _settle(self) -> None:
        """Read what is in doubt, as soon as the database answers."""
        while self._doubted:
            alias = next(iter(self._doubted))
            try:
                # A write, because it waits for whatever of the move's own transaction is still under way.
                self._keep(await self._database.write(functools.partial(store.get_routing, alias=alias)))
                self._doubted.discard(alias)
            except StorageUnavailable:
                await asyncio.sleep(SETTLE_S)

    async def _alias_of_sound(self, adapter_id: str) -> str:
        """The adapter's alias, once every byte of it was read."""
        alias = (await self._record(adapter_id)).alias
        if not await self._verify(adapter_id):
            raise _damaged()
        return alias

    def _require_intact(self, adapter_id: str) -> None:
        if not self._is_intact(adapter_id):
            raise _damaged()

    def _expected(self, alias: str, order: Order) -> int:
        return self.current(alias).generation if order.expect_generation is None else order.expect_generation

    def _targets(self, connection: Connection, routing: Routing, without: str) -> list[str]:
        retired = rows.list_adapters(connection, alias=routing.alias, states={AdapterState.RETIRED})
        order = moves.fallbacks(routing, retired, without=without)
        targets = [one for one in order if one == BASE or self._is_intact(one)]
        for damaged in set(order) - set(targets):
            log.error("adapter %s is damaged and cannot be rolled back to", damaged)
        return targets

    async def _record(self, adapter_id: str) -> AdapterRecord:
        return await self._database.read(lambda c: _require_adapter(c, adapter_id))

    async def _refresh(self, alias: str) -> None:
        self._keep(await self._database.read(lambda c: store.get_routing(c, alias)))

    def _keep(self, routing: Routing | None) -> None:
        if routing is not None and routing.generation > self._routings[routing.alias].generation:
            self._routings[routing.alias] = routing


def _place(canary: str, user_key: str) -> float:
    """A user's place in [0, 1) for one canary: every canary gets users of its own."""
    return int(hashlib.sha256(f"{canary}:{user_key}".encode()).hexdigest()[:13], 16) / 16**13


def _compared(routing: Routing) -> tuple[str, str | None, float]:
    """What a canary's evidence is about."""
    return routing.active, routing.canary, routing.canary_share


def _stale() -> StaleGeneration:
    return StaleGeneration("Routing moved meanwhile; look again and decide anew.", param="expect_generation")


def _damaged() -> BadRequest:
    return BadRequest("The adapter's files are damaged; it cannot be served.", code="adapter_damaged")


def _require_generation(connection: Connection, alias: str, expected: int) -> Routing:
    routing = store.get_routing(connection, alias)
    if routing is None or routing.generation != expected:
        raise _stale()
    return routing


def _require_adapter(connection: Connection, adapter_id: str) -> AdapterRecord:
    record = rows.get_adapter(connection, adapter_id)
    if record is None:
        raise NotFound("There is no such adapter.", code="adapter_not_found")
    return record


def _require_sound(connection: Connection, record: AdapterRecord) -> None:
    known = {one.id: one for one in rows.list_adapters(connection, alias=record.alias)}
    unsound = lineage.unsound_ancestor(record.id, known)
    if unsound is not None:
        raise BadRequest(f"The adapter grew out of {unsound}, which was taken back.", code="stale_parent")


def _change_state(connection: Connection, adapter_id: str, state: AdapterState, mover: Mover, now: float) -> None:
    record = rows.get_adapter(connection, adapter_id)
    if record is None:  # a lost row must not bar the way back
        log.error("adapter %s has no row", adapter_id)
        return
    states.require_move(record.state, state, mover)
    if not rows.set_state(connection, adapter_id, {record.state}, state, now):
        raise _stale()

"""Who serves whom: each alias's routing row, read from memory at every request, moved by compare-and-swap.

A move is one transaction: the row's generation is checked and grows by one, the adapters' states change, the audit
entry is written. The copy in memory follows once that is durable, so the request after a move's reply already sees
it. A caller that names no generation means the one it sees now: of two concurrent moves exactly one wins, the
other gets `StaleGeneration`.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection

from server.adapters import lineage, moves, states
from server.adapters.moves import Plan
from server.adapters.states import Mover
from server.errors import BadRequest, NotFound, StaleGeneration
from server.pipeline.task import Assignment
from server.store import adapters as rows
from server.store import audit, evidence, quarantine
from server.store import routing as store
from server.store.database import Database
from server.store.records import AdapterRecord, AdapterState, Report, Routing
from server.wire.base import BASE

log = logging.getLogger(__name__)

SERVER = "server"
"""The actor of moves that nobody asked for."""


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

    `is_intact` says cheaply whether an adapter's files are there: a rollback never goes to one that is not.
    `on_move` is told each state change that is durable.
    """

    def __init__(
        self,
        database: Database,
        aliases: Sequence[str],
        *,
        clock: Callable[[], float],
        is_intact: Callable[[str], bool] = lambda _: True,
        draw: Callable[[], float] = random.random,
        on_move: Callable[[str, AdapterState], None] = lambda alias, state: None,
    ) -> None:
        self._database = database
        self._aliases = tuple(aliases)
        self._clock = clock
        self._is_intact = is_intact
        self._draw = draw
        self._on_move = on_move
        self._routings: dict[str, Routing] = {}

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

    async def heal(self, verify: Callable[[str], Awaitable[bool]]) -> None:
        """Route away from adapters whose files are no longer what was published. After `load`, before serving."""
        order = Order(SERVER, Mover.SERVER, "its files are damaged")
        for routing in list(self._routings.values()):
            if routing.previous is not None and not await verify(routing.previous):
                log.error("adapter %s is damaged and cannot be rolled back to", routing.previous)
            while not await verify(self.current(routing.alias).active):
                log.error("adapter %s is damaged; rolling back", self.current(routing.alias).active)
                await self.rollback(routing.alias, order)
            canary = self.current(routing.alias).canary
            if canary is not None and not await verify(canary):
                log.error("canary %s is damaged; ending it", canary)
                await self.end_canary(routing.alias, order)
            shadow = self.current(routing.alias).shadow
            if shadow is not None and not await verify(shadow):
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

        return await self._move((await self._record(adapter_id)).alias, "canary", adapter_id, plan, order)

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

        return await self._move((await self._record(adapter_id)).alias, "promote", adapter_id, plan, order)

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

        return await self._move((await self._record(adapter_id)).alias, "shadow", adapter_id, plan, order)

    async def end_canary(self, alias: str, order: Order) -> Routing:
        """Take the canary out of routing; it is `rolled_back`."""
        subject = self.current(alias).canary or alias
        return await self._move(alias, "end_canary", subject, lambda _, routing: moves.end_canary(routing), order)

    async def rollback(self, alias: str, order: Order) -> Routing:
        """The previous active adapter, or base, takes all traffic."""

        def plan(connection: Connection, routing: Routing) -> Plan:
            return moves.roll_back(routing, self._targets(connection, routing, routing.active))

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

        return await self._move(alias, "undo", alias, plan, order)

    async def reject(self, adapter_id: str, order: Order) -> Routing:
        """Decline an adapter that is not routed; of a canary: end it."""
        record = await self._record(adapter_id)
        if record.state is AdapterState.CANARY:
            return await self.end_canary(record.alias, order)
        if self.current(record.alias).shadow == adapter_id:

            def plan(_: Connection, routing: Routing) -> Plan:
                return moves.reject_shadow(routing, adapter_id)

            return await self._move(record.alias, "reject", adapter_id, plan, order)
        return await self._restate(record, AdapterState.REJECTED, "reject", order)

    async def quarantine(self, adapter_id: str, order: Order) -> Routing:
        """Never serve it again. What is routed is routed away from in the same move."""
        record = await self._record(adapter_id)
        routing = self.current(record.alias)
        if adapter_id not in (routing.active, routing.canary, routing.previous, routing.shadow):
            return await self._restate(record, AdapterState.QUARANTINED, "quarantine", order)

        def plan(connection: Connection, routing: Routing) -> Plan:
            planned = moves.quarantine(routing, adapter_id, self._targets(connection, routing, adapter_id))
            if planned is None:
                raise _stale()
            return planned

        return await self._move(record.alias, "quarantine", adapter_id, plan, order)

    # --- how moves are made -------------------------------------------------------------------------------

    async def _move(
        self, alias: str, action: str, subject: str, plan: Callable[[Connection, Routing], Plan], order: Order
    ) -> Routing:
        expected = self._expected(alias, order)
        now = self._clock()

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
            audit.record(connection, actor=order.actor, action=action, subject=subject, detail=detail, now=now)
            return after, planned

        try:
            after, planned = await self._database.write(run)
        except StaleGeneration:
            await self._refresh(alias)
            raise
        self._keep(after)
        for _, state in planned.states:
            self._on_move(alias, state)
        log.info("%s: %s of %s, now at generation %d", alias, action, subject, after.generation)
        return after

    async def _restate(self, record: AdapterRecord, state: AdapterState, action: str, order: Order) -> Routing:
        """A move that leaves routing alone."""
        expected = self._expected(record.alias, order)
        now = self._clock()

        def run(connection: Connection) -> None:
            standing = _require_generation(connection, record.alias, expected)
            if record.id in (standing.active, standing.canary, standing.shadow):
                raise _stale()
            _change_state(connection, record.id, state, order.mover, now)
            detail = {"state": state.value, "reason": order.reason}
            audit.record(connection, actor=order.actor, action=action, subject=record.id, detail=detail, now=now)

        try:
            await self._database.write(run)
        except StaleGeneration:
            await self._refresh(record.alias)
            raise
        self._on_move(record.alias, state)
        return self.current(record.alias)

    def _require_intact(self, adapter_id: str) -> None:
        if not self._is_intact(adapter_id):
            raise BadRequest("The adapter's files are damaged; it cannot be served.", code="adapter_damaged")

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
        routing = await self._database.read(lambda c: store.get_routing(c, alias))
        if routing is not None:
            self._keep(routing)

    def _keep(self, routing: Routing) -> None:
        if routing.generation > self._routings[routing.alias].generation:
            self._routings[routing.alias] = routing


def _place(canary: str, user_key: str) -> float:
    """A user's place in [0, 1) for one canary: every canary gets users of its own."""
    return int(hashlib.sha256(f"{canary}:{user_key}".encode()).hexdigest()[:13], 16) / 16**13


def _compared(routing: Routing) -> tuple[str, str | None, float]:
    """What a canary's evidence is about."""
    return routing.active, routing.canary, routing.canary_share


def _stale() -> StaleGeneration:
    return StaleGeneration("Routing moved meanwhile; look again and decide anew.", param="expect_generation")


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
    if state is AdapterState.QUARANTINED:
        quarantine.of_adapter(connection, record, aside=True, now=now)

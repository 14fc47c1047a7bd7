"""Routing against a simple model: operators, the rollout, a learner, lost files, a database that fails, and crashes.

The model is written from the design's words alone: who serves, what the way back is, which state follows. After every
step memory, row and model are the same; so the generation grew by one with each move, nobody is assigned to an adapter
that may not serve, somebody always serves, and there always is a way back (I4, I5, I6).
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, delete, select

from server import faults
from server.adapters.registry import AdapterRegistry
from server.adapters.routing import Order, Router
from server.adapters.states import Mover
from server.errors import BadRequest, StaleGeneration
from server.store import adapters as rows
from server.store import routing as store
from server.store import schema
from server.store.database import Database
from server.store.integrity import QUESTIONS
from server.store.postgres import PostgresDatabase
from server.store.records import AdapterRecord
from server.store.records import AdapterState as S
from server.store.sqlite import SqliteDatabase
from server.wire.base import BASE
from tests.server.adapters.support import ALIAS, DIGEST, Clock, until

NewDatabase = Callable[[], Database]
USERS = [f"user-{number}" for number in range(12)]
MOST = 6
"""Adapters of one example: few, so that moves meet."""


class Refused(Exception):
    """The model says no: 400."""


class Late(Exception):
    """The model says that somebody was faster: 412."""


@dataclass(frozen=True)
class Action:
    """What somebody asks for. `expect`: the generation they saw, or None."""

    kind: str
    adapter: str = ""
    mover: Mover = Mover.OPERATOR
    expect: int | None = None
    force: bool = False
    share: float = 0.5

    @property
    def order(self) -> Order:
        return Order("somebody", self.mover, expect_generation=self.expect, force=self.force)


@dataclass
class Model:
    """Who serves, by the rules of the design."""

    active: str = BASE
    previous: str | None = None
    canary: str | None = None
    share: float = 0.0
    generation: int = 0
    states: dict[str, S] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    """Adapters whose files are damaged."""
    retired: list[str] = field(default_factory=list)
    """In the order in which they retired."""
    rolled_back: tuple[str, str] | None = None
    """What the last rollback took out, and what it put in its place."""

    def after(self, action: Action) -> Model:
        """The model once this was done; raises `Refused` or `Late`."""
        then = copy.deepcopy(self)
        if action.kind in ("canary", "promote") and action.adapter in self.lost:
            raise Refused
        if action.expect not in (None, self.generation):
            raise Late
        getattr(then, f"_{action.kind}")(action)
        return then

    def _canary(self, action: Action) -> None:
        one, is_operator = action.adapter, action.mover is Mover.OPERATOR
        may = {S.GATED, S.CANARY} | ({S.REJECTED} if action.force and is_operator else set())
        self._require(self.states[one] in may and (action.force or self._is_sound(one)))
        self._require(self.canary in (None, one))
        self.canary, self.share, self.states[one] = one, action.share, S.CANARY
        self.generation += 1

    def _promote(self, action: Action) -> None:
        one, is_operator = action.adapter, action.mover is Mover.OPERATOR
        waits = self.states[one] is S.GATED and is_operator and self.canary is None
        self._require(one == self.canary or waits)
        self._require(action.force or self._is_sound(one))
        self._retire(self.active)
        self.active, self.previous, self.canary, self.share = one, self.active, None, 0.0
        self.states[one] = S.ACTIVE
        self.generation += 1

    def _reject(self, action: Action) -> None:
        one = action.adapter
        if one == self.canary:
            self._end_canary()
            self.generation += 1
            return
        self._require(self.states[one] in {S.STAGED, S.VERIFIED, S.GATED})
        self.states[one] = S.REJECTED

    def _rollback(self, action: Action) -> None:
        self._require(self.active != BASE or self.canary is not None)
        before = self.active
        self._end_canary()
        if self.active != BASE:
            self._leave(S.ROLLED_BACK)
        self.rolled_back = (before, self.active)
        self.generation += 1

    def _undo(self, action: Action) -> None:
        self._require(self.rolled_back is not None)
        assert self.rolled_back is not None
        out, instead = self.rolled_back
        self._require(out != instead and self.active == instead and out not in self.lost)
        self._require(self.states[out] is S.ROLLED_BACK)
        self._end_canary()
        self._retire(instead)
        self.active, self.previous, self.states[out] = out, instead, S.ACTIVE
        self.generation += 1

    def _quarantine(self, action: Action) -> None:
        one = action.adapter
        self._require(self.states[one] is not S.QUARANTINED)
        self._drop(one)
        if one == self.active:
            self._end_canary()
            self._leave(S.QUARANTINED)
        elif one == self.canary:
            self._end_canary()
        elif one == self.previous:
            self.previous = self._way_back(without=one)[0]
        else:
            self.generation -= 1  # routing stays
        self.states[one] = S.QUARANTINED
        self.generation += 1

    def advance(self, one: str, state: S) -> bool:
        """The server's step after the probe or the gate."""
        may = {S.VERIFIED: {S.STAGED}, S.GATED: {S.VERIFIED}, S.REJECTED: {S.STAGED, S.VERIFIED, S.GATED}}
        if self.states[one] not in may[state]:
            return False
        self.states[one] = state
        return True

    def heal(self) -> None:
        """A start: whatever is damaged does not serve."""
        while self.active in self.lost:
            self._rollback(Action("rollback"))
        if self.canary in self.lost:
            self._end_canary()
            self.generation += 1

    # --- parts --------------------------------------------------------------------------------------------

    def _require(self, allowed: bool) -> None:
        if not allowed:
            raise Refused

    def _is_sound(self, one: str) -> bool:
        bad = {S.ROLLED_BACK, S.QUARANTINED}
        while (one := self.parents[one]) != BASE:
            if self.states[one] in bad:
                return False
            bad = {S.QUARANTINED}
        return True

    def _retire(self, one: str) -> None:
        if one != BASE:
            self.states[one] = S.RETIRED
            self.retired.append(one)

    def _drop(self, one: str) -> None:
        self.retired = [other for other in self.retired if other != one]

    def _end_canary(self) -> None:
        if self.canary is not None:
            self.states[self.canary] = S.ROLLED_BACK
        self.canary, self.share = None, 0.0

    def _way_back(self, *, without: str = "") -> list[str]:
        """The previous one, then what retired last; base in the end, or at once where base came before."""
        if self.previous == BASE:
            return [BASE]
        newest = self.retired[::-1]
        ordered = sorted(newest, key=lambda one: one != self.previous)
        return [*(one for one in ordered if one not in self.lost and one != without), BASE]

    def _leave(self, state: S) -> None:
        target, *rest = self._way_back()
        self.states[self.active] = state
        self.active, self.previous = target, rest[0] if rest else None
        if target != BASE:
            self.states[target] = S.ACTIVE
            self._drop(target)


class Adapters(RuleBasedStateMachine):
    """The rules; `new_database` and `directory` are set by the test."""

    new_database: NewDatabase
    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.clock = Clock()
        self.model = Model()
        self.seen = [0, 0]
        """The generation that each operator last looked at."""
        self.database = type(self).new_database()
        self.loop.run(self.database.start())
        self.loop.run(self.database.write(_clear))
        self.loop.run(self.open())

    async def open(self) -> None:
        """What a server does at its start."""
        self.registry = AdapterRegistry(
            self.database,
            self.directory / "adapters",
            self.directory / "uploads",
            engine_model="m",
            base_digest=DIGEST,
            max_lora_rank=4,
            aliases=[ALIAS],
            clock=self.clock,
        )
        self.router = Router(
            self.database,
            [ALIAS],
            clock=self.clock,
            is_intact=lambda one: one not in self.model.lost,
            verify=self.verify,
        )
        await self.router.load()
        await self.router.heal()

    async def verify(self, adapter: str) -> bool:
        return adapter not in self.model.lost

    def teardown(self) -> None:
        self.loop.run(self.router.stop())
        self.loop.run(self.database.close())
        self.loop.close()

    # --- who does what ------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for _ in range(3):
            self.learn(0, 2)

    @rule(parent=st.integers(0, MOST), steps=st.sampled_from([0, 1, 2, 2, 2]))
    def learn(self, parent: int, steps: int) -> None:
        """The learner uploads; the server takes it so many steps further."""
        if len(self.model.states) == MOST:
            return
        number = self.loop.run(self.database.write(rows.next_number))
        adapter = f"a{number:05d}-{number:012d}"
        origin = ([BASE, *self.model.states] * MOST)[parent]
        now = self.clock()
        record = AdapterRecord(adapter, number, ALIAS, S.STAGED, origin, {}, now, now)
        self.loop.run(self.database.write(lambda c: rows.insert_adapter(c, record)))
        self.model.states[adapter], self.model.parents[adapter] = S.STAGED, origin
        for state in (S.VERIFIED, S.GATED)[:steps]:
            self.advance(len(self.model.states) - 1, state)

    @rule(which=st.integers(0, MOST - 1), state=st.sampled_from([S.VERIFIED, S.GATED, S.REJECTED]))
    def advance(self, which: int, state: S) -> None:
        """The server's own step, whatever has become of the adapter meanwhile."""
        adapter = self.pick(which)
        done = self.loop.run(self.registry.advance(adapter, state, actor="rollout"))
        assert done == self.model.advance(adapter, state)

    @rule(operator=st.integers(0, 1))
    def look(self, operator: int) -> None:
        self.seen[operator] = self.model.generation

    @rule(
        kind=st.sampled_from(["canary", "promote", "promote", "reject", "rollback", "undo", "quarantine"]),
        which=st.integers(0, MOST - 1),
        operator=st.sampled_from([None, 0, 1]),
        force=st.booleans(),
        share=st.sampled_from([0.2, 1.0]),
    )
    def decide(self, kind: str, which: int, operator: int | None, force: bool, share: float) -> None:
        """An operator, on the generation that they saw, or on whatever stands."""
        expect = None if operator is None else self.seen[operator]
        self.act(Action(kind, self.pick(which), expect=expect, force=force, share=share))

    @rule(kind=st.sampled_from(["canary", "promote", "reject"]), which=st.integers(0, MOST - 1))
    def conduct(self, kind: str, which: int) -> None:
        """The rollout's own moves."""
        adapter = self.pick(which) if kind == "canary" or self.model.canary is None else self.model.canary
        self.act(Action(kind, adapter, Mover.SERVER, self.model.generation))

    @rule(
        kinds=st.tuples(*[st.sampled_from(["canary", "promote", "rollback", "quarantine", "reject", "undo"])] * 2),
        which=st.tuples(*[st.integers(0, MOST - 1)] * 2),
        is_rollout=st.booleans(),
    )
    def decide_at_once(self, kinds: tuple[str, str], which: tuple[int, int], is_rollout: bool) -> None:
        """Two who saw the same, at the same time: as if one had come after the other; of two moves exactly one wins."""
        movers = (Mover.OPERATOR, Mover.SERVER if is_rollout and kinds[1] in ("canary", "promote") else Mover.OPERATOR)
        actions = [
            Action(kind, self.pick(one), mover, self.model.generation)
            for kind, one, mover in zip(kinds, which, movers, strict=True)
        ]

        async def both() -> list[Any]:
            return await asyncio.gather(*(self.call(one) for one in actions), return_exceptions=True)

        got = [_kind(result) for result in self.loop.run(both())]
        ways = []
        for order in itertools.permutations(range(2)):
            model, results = self.model, ["", ""]
            for index in order:
                model, results[index] = _tried(model, actions[index])
            ways.append((results, model))
        matching = [model for results, model in ways if results == got]
        assert matching, f"{actions} gave {got}, and one after the other {[results for results, _ in ways]}"
        moved = [model.generation - self.model.generation for model in matching]
        assert max(moved) <= 1, "two moves of one generation"
        standing = self.loop.run(self.database.read(_standing))
        self.model = next(model for model in matching if _expected(model) == standing)

    @rule(which=st.integers(0, MOST - 1))
    def lose(self, which: int) -> None:
        """An adapter's files are damaged: from now on it is no target; who serves, serves until the next start."""
        self.model.lost.add(self.pick(which))

    @rule()
    def restart(self) -> None:
        self.reopen()

    @rule(
        kind=st.sampled_from(["canary", "promote", "rollback", "quarantine", "reject", "undo"]),
        which=st.integers(0, MOST - 1),
        is_made=st.booleans(),
    )
    def lose_the_answer(self, kind: str, which: int, is_made: bool) -> None:
        """The database fails around the commit: the caller knows nothing, and memory catches up with the row."""
        self.fail(Action(kind, self.pick(which)), "store.after_commit" if is_made else "store.before_commit", is_made)

    @rule(
        kind=st.sampled_from(["canary", "promote", "rollback", "quarantine", "undo"]),
        which=st.integers(0, MOST - 1),
        at=st.sampled_from(["move.before_commit", "move.after_commit", "store.before_commit", "store.after_commit"]),
    )
    def crash(self, kind: str, which: int, at: str) -> None:
        """The process dies in a move; the next one finds the row before it, or after it."""
        self.fail(Action(kind, self.pick(which)), at, at.endswith("after_commit"), settle=False)
        self.reopen()

    # --- how ----------------------------------------------------------------------------------------------

    def pick(self, which: int) -> str:
        return list(self.model.states)[which % len(self.model.states)]

    def act(self, action: Action) -> None:
        after, expected = _tried(self.model, action)
        got = _kind(self.loop.run(_result(self.call(action))))
        assert got == expected, action
        self.model = after

    def call(self, action: Action) -> Coroutine[Any, Any, Any]:
        match action.kind:
            case "canary":
                return self.router.start_canary(action.adapter, action.share, action.order)
            case "rollback" | "undo":
                return getattr(self.router, action.kind)(ALIAS, action.order)
            case kind:
                return getattr(self.router, kind)(action.adapter, action.order)

    def fail(self, action: Action, at: str, is_made: bool, *, settle: bool = True) -> None:
        with faults.armed(f"{at}=fail@1") as plan:
            self.loop.run(_result(self.call(action)))
        if is_made or not plan.acted:
            self.model, _ = _tried(self.model, action)

        async def is_settled() -> bool:
            routing = self.router.current(ALIAS)
            standing = await self.database.read(lambda c: store.get_routing(c, ALIAS))
            return self.database.is_healthy and routing == standing

        if settle and plan.acted:
            # A write, so that the database is tried again at once.
            self.loop.run(_result(self.database.write(lambda c: None)))
            self.loop.run(until(is_settled))

    def reopen(self) -> None:
        self.loop.run(self.router.stop())
        self.loop.run(self.database.close())
        self.database = type(self).new_database()
        self.loop.run(self.database.start())
        self.loop.run(self.open())
        self.model.heal()

    # --- what is always true ------------------------------------------------------------------------------

    @invariant()
    def there_is_one_truth(self) -> None:
        """Memory, row and model; every move left one entry in the audit trail (I4)."""
        routing = self.router.current(ALIAS)
        expected = (*_expected(self.model)[0], self.model.generation)
        seen = (routing.active, routing.previous, routing.canary, routing.canary_share, routing.generation)
        assert seen == expected
        standing, problems, moves = self.loop.run(
            self.database.read(lambda c: (_standing(c), [q(c) for q, _ in QUESTIONS.values()], _moves(c)))
        )
        assert standing == _expected(self.model)
        assert not any(problems)
        assert moves == list(range(1, self.model.generation + 1))

    @invariant()
    def only_what_may_serve_does(self) -> None:
        """Every request has a server that stands in routing, and its state says so (I5)."""
        for user in (*USERS, None):
            assignment = self.router.assign(ALIAS, user)
            assert assignment.generation == self.model.generation
            assert assignment.adapter in {self.model.active, self.model.canary}
            wanted = S.CANARY if assignment.is_canary else S.ACTIVE
            assert assignment.adapter == BASE or self.model.states[assignment.adapter] is wanted

    @invariant()
    def there_is_a_way_back(self) -> None:
        """Base serves, or a rollback has somewhere to go that is whole (I6)."""
        if self.model.active == BASE:
            return
        assert self.model.previous is not None
        back = self.model.after(Action("rollback")).active
        assert back == BASE or (back not in self.model.lost and self.model.states[back] is S.RETIRED)


def _tried(model: Model, action: Action) -> tuple[Model, str]:
    try:
        return model.after(action), "done"
    except Refused:
        return model, "refused"
    except Late:
        return model, "late"


async def _result(call: Coroutine[Any, Any, Any]) -> Any:
    return (await asyncio.gather(call, return_exceptions=True))[0]


def _kind(result: Any) -> str:
    match result:
        case StaleGeneration():
            return "late"
        case BadRequest():
            return "refused"
        case BaseException():
            raise result
        case _:
            return "done"


def _clear(connection: Connection) -> None:
    """All examples share a database: making one takes longer than an example."""
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(delete(table))


def _standing(connection: Connection) -> tuple[tuple[object, ...], dict[str, S]]:
    row = store.get_routing(connection, ALIAS)
    assert row is not None
    states = {one.id: one.state for one in rows.list_adapters(connection)}
    return (row.active, row.previous, row.canary, row.canary_share), states


def _expected(model: Model) -> tuple[tuple[object, ...], dict[str, S]]:
    return (model.active, model.previous, model.canary, model.share), model.states


def _moves(connection: Connection) -> list[int]:
    details = connection.execute(select(schema.audit.c.detail).order_by(schema.audit.c.id)).scalars()
    return [detail["after"]["generation"] for detail in details if "after" in detail]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewDatabase]:
    if request.param == "sqlite":
        yield lambda: SqliteDatabase(tmp_path / "test.db", read_connections=1)
        return
    cluster = request.getfixturevalue("postgres")
    url = cluster.create()
    yield lambda: PostgresDatabase(url, read_connections=1)
    cluster.drop(url)


@pytest.mark.parametrize(
    ("examples", "steps"), [(12, 25), pytest.param(80, 50, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_routing_does_what_the_model_does(new_database: NewDatabase, tmp_path: Path, examples: int, steps: int) -> None:
    """Whoever decides whatever in whatever order."""

    class Here(Adapters):
        pass

    Here.new_database = staticmethod(new_database)
    Here.directory = tmp_path
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=examples < 50,
            phases={Phase.generate},
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )

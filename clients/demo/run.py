"""The demo, from an empty directory to a measured result: serve, let people talk, learn, swap, roll back.

Every request of a user or of a measurement goes through the stock `openai` client; what came of it is for
`clients.demo.result` to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from openai import AsyncOpenAI

from clients.client import PlumblineClient
from clients.demo.budget import Budget
from clients.demo.chat import Answer, ask, connect
from clients.demo.crowd import Crowd
from clients.demo.dashboard import Dashboard
from clients.demo.language import description_question
from clients.demo.ledger import Ledger
from clients.demo.measure import Descriptions, Meter
from clients.demo.rounds import Rounds
from clients.demo.scenes import EVALUATION_SEEDS
from clients.demo.settings import ALIAS, Sizes
from clients.demo.statistics import Figure, wilson
from clients.demo.users import make_users
from clients.stack import Stack, StackError
from server.wire.adapters import AdapterReply, RollbackRequest, RoutingReply
from server.wire.base import BASE

POLL_S = 0.3
USERS_SEED = 5
AUDIT_ENTRIES = 200
SWAP_SCENE = EVALUATION_SEEDS[-1]


@dataclass(slots=True)
class Move:
    """An operator's move and what the next answer showed of it."""

    adapter: str
    """Adapter of the first answer after the call."""
    generation: int
    ms: float
    """From the call's first byte to that answer."""


@dataclass(slots=True)
class Story:
    """Everything that a run found out."""

    before: Descriptions
    skills_before: list[bool]
    rounds: Rounds = field(default_factory=Rounds)
    after: Descriptions | None = None
    after_best_of_8: Descriptions | None = None
    skills_after: list[bool] | None = None
    rollback: Move | None = None
    undo: Move | None = None


@dataclass(slots=True)
class Run:
    """One run against a stack that is ready."""

    stack: Stack
    sizes: Sizes
    board: Dashboard
    ledger: Ledger
    budget: Budget
    openai: AsyncOpenAI
    server: PlumblineClient
    rounds: Rounds = field(default_factory=Rounds)
    routing: RoutingReply | None = None

    async def play(self) -> Story:
        """Before, the rounds, after, rollback and undo; raises `StackError` or `MeasurementFailed`."""
        meter = Meter(
            self.openai, self.ledger, self.sizes.descriptions, self.sizes.skills, self.sizes.measure_concurrency
        )
        await self.look()
        self.board.phase("before: descriptions")
        story = Story(await meter.describe(BASE, 1, self.board.tick), [])
        self._show("before", story.before)
        self.board.phase("before: skills")
        story.skills_before = await meter.answer_skills(BASE, self.board.tick)
        self.board.measured["skills before"] = share(story.skills_before)
        crowd = self._crowd()
        self.stack.start_learner(ALIAS, "--poll", "0.5", "--threads", "1")
        await self.learn(crowd)
        story.rounds = self.rounds
        if self.active != BASE:
            await self._measure_after(meter, story)
            await self._take_back(crowd, story)
        return story

    async def provoke(self) -> None:
        """Rounds of learning alone, nothing measured but by the gate."""
        await self.look()
        self.stack.start_learner(ALIAS, "--poll", "0.5", "--threads", "1")
        await self.learn(self._crowd())

    @property
    def active(self) -> str:
        return self.routing.active if self.routing else BASE

    async def learn(self, crowd: Crowd) -> None:
        """The users chat; portion after portion of signals is released, each answered by a round."""
        crowd.start()
        try:
            for number in range(1, self.sizes.rounds + 1):
                if not self.budget.can_release or self.board.seconds > self.sizes.last_round_starts_s:
                    break
                await self._round(crowd, number)
        finally:
            await crowd.stop()

    async def _round(self, crowd: Crowd, number: int) -> None:
        self.board.phase(f"round {number}")
        ended, began = self.rounds.ended, time.monotonic()
        self.budget.release()
        while True:
            if not self.budget.is_open and self.budget.useful < self.sizes.round_size:
                self.board.say("the signals are used up before another round could start")
                return
            if time.monotonic() - began > self.sizes.round_timeout_s:
                raise StackError(f"round {number} did not end in {self.sizes.round_timeout_s:.0f} s")
            await asyncio.sleep(POLL_S)
            crowd.check()
            await self.look()
            if self.rounds.ended > ended:
                break
            crowd.pause_s = self._reading_s()
            self.board.doing(self.rounds.state(is_rating=self.budget.is_open))
            self.board.tick(min(self.budget.useful, self.sizes.round_size), self.sizes.round_size)
        crowd.pause_s = 0.0
        self.board.doing("idle")

    def _reading_s(self) -> float:
        """Learner and gate need the same cores as the users' answers; a canary needs the users."""
        undecided = self.rounds.undecided
        is_busy = not self.budget.is_open and (undecided is None or undecided.state in {"staged", "verified"})
        return self.sizes.reading_s if is_busy else 0.0

    async def look(self) -> None:
        """See what the server says; note a swap."""
        self.stack.check()
        before = self.active
        self.routing, self.rounds = await asyncio.to_thread(self._ask_server)
        self.board.adapter = self.active
        if self.active != before:
            self.ledger.swap(self.active)

    def _ask_server(self) -> tuple[RoutingReply, Rounds]:
        adapters = self.server.adapters(ALIAS).data
        audit = self.server.audit(AUDIT_ENTRIES).data
        return self.server.routing().data[0], Rounds(tuple(sorted(adapters, key=_age)), tuple(audit))

    async def _measure_after(self, meter: Meter, story: Story) -> None:
        self.board.phase("after: descriptions, weights alone")
        story.after = await meter.describe(self.active, 1, self.board.tick)
        self._show("after", story.after)
        self.board.phase("after: skills")
        story.skills_after = await meter.answer_skills(self.active, self.board.tick)
        self.board.measured["skills after"] = share(story.skills_after)
        self.board.phase("after: descriptions, best of 8")
        story.after_best_of_8 = await meter.describe(self.active, 8, self.board.tick)
        self._show("best of 8", story.after_best_of_8)

    async def _take_back(self, crowd: Crowd, story: Story) -> None:
        """An operator's rollback under load, and its undo."""
        self.board.phase("rollback and undo")
        crowd.start()
        try:
            await asyncio.sleep(1.0)
            for name, call in (("rollback", self.server.rollback), ("undo", self.server.undo_rollback)):
                expected = self.routing.generation if self.routing else None
                request = RollbackRequest(alias=ALIAS, expect_generation=expected, reason="shown in the demo")
                move = await self._move(call, request)
                setattr(story, name, move)
                await self.look()
                self.board.say(f"{name}: the next answer came from {move.adapter} after {move.ms:.0f} ms")
        finally:
            await crowd.stop()

    async def _move(self, call: Callable[[RollbackRequest], RoutingReply], request: RollbackRequest) -> Move:
        started = time.monotonic()
        await asyncio.to_thread(call, request)
        answer = await self.ask_once()
        return Move(answer.adapter, answer.generation, (time.monotonic() - started) * 1000)

    async def ask_once(self) -> Answer:
        """One answer by whoever serves the alias now."""
        options = {"temperature": 1.0, "store": False, "extra_body": {"best_of": 1}}
        answer = await ask(self.openai, ALIAS, description_question(SWAP_SCENE), **options)
        self.ledger.reply(answer.texts, answer.adapter, time.time())
        return answer

    def _crowd(self) -> Crowd:
        users = make_users(self.sizes.users, USERS_SEED, self.sizes.brevity)
        return Crowd(self.openai, ALIAS, users, self.ledger, self.budget, self.sizes.best_of, self.sizes.concurrency)

    def _show(self, name: str, found: Descriptions) -> None:
        self.board.measured |= {f"hallucination {name}": found.hallucination, f"coverage {name}": found.coverage}


def open_run(stack: Stack, sizes: Sizes, board: Dashboard, ledger: Ledger, budget: Budget) -> Run:
    return Run(stack, sizes, board, ledger, budget, connect(stack.url), PlumblineClient(stack.url))


def share(right: list[bool]) -> Figure:
    """Share of right answers."""
    return wilson(sum(right), len(right))


def _age(adapter: AdapterReply) -> tuple[float, str]:
    return adapter.created_at, adapter.id

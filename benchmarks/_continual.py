"""The installation of `benchmarks.continual`: one server and engine, an alias for each arm, one learner's process.

An arm is a way to go on learning. Its people are those of the other arms (the same tastes, slips and scenes), but they
judge what its own adapters say. A round: people give their signals, the learner makes an adapter, the server probes
and gates it, the operator promotes what passed, and what is then served is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from openai import AsyncOpenAI

from benchmarks._continual_world import (
    CORRECTS,
    Timeline,
    questions_with_tilted,
    rightly_named,
    short_share,
    words,
)
from clients.client import PlumblineClient
from clients.demo.budget import Budget
from clients.demo.chat import connect
from clients.demo.crowd import Crowd
from clients.demo.ledger import Ledger
from clients.demo.measure import Meter
from clients.demo.settings import LEARNER, ORDINARY, server_settings
from clients.demo.statistics import Figure, mean_difference
from clients.demo.suites import write_suites
from clients.demo.users import make_users
from clients.stack import Stack, StackError
from server.wire.adapters import AdapterReply, MoveRequest
from server.wire.base import BASE
from server.wire.training import RoundReport

USERS: Final = 24
USERS_SEED: Final = 5
CONCURRENCY: Final = 4
MEASURE_CONCURRENCY: Final = 16
GATE_DESCRIPTIONS: Final = 120
GATE_SKILLS: Final = 80
"""Of each of the gate's suites."""
DECISION_TIMEOUT_S: Final = 180.0
MAX_REPORT_BYTES: Final = 2**24
DECIDED: Final = frozenset({"gated", "rejected"})


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to go on learning: the alias's `learner` settings, where rounds start, and whether signals are kept."""

    name: str
    learner: dict[str, Any]
    from_base: bool = False
    forgets: bool = False


LEARNS: Final[dict[str, Any]] = LEARNER | {
    "objectives": {"sigmoid": 1.0, "sft": 3.0, "kto": 1.0},
    "beta": 0.5,
    "learning_rate": 1e-3,
    "epochs": 4,
}
"""As in the demo, but for more passes, a shorter leash and more imitation: rounds go on for ever."""
OURS: Final = Arm("ours", LEARNS | {"max_replay_groups": 160, "half_life_signals": 60})
SCRATCH: Final = Arm("from_scratch", LEARNS, from_base=True)
NO_REPLAY: Final = Arm("no_replay", LEARNS, forgets=True)
ARMS: Final = (OURS, SCRATCH, NO_REPLAY)


@dataclass(frozen=True, slots=True)
class Sizes:
    timeline: Timeline
    opening_signals: int
    """Of each round of the opening."""
    round_signals: int
    best_of: int
    descriptions: int
    tilted: int
    """Descriptions of scenes with the new shape."""
    skills: int


@dataclass(frozen=True, slots=True)
class Said:
    """What an adapter says, asked through the server, at temperature 1 and one candidate."""

    hallucination: Figure
    coverage: Figure
    short: Figure
    words: float
    skills_drop: Figure
    """Against the base model, on the same questions, greedily."""
    tilted: Figure | None = None
    """Tilted triangles named rightly."""
    tilted_hallucination: Figure | None = None
    """Descriptions of scenes with a tilted triangle that name something absent."""


@dataclass(frozen=True, slots=True)
class Served:
    """One round of one arm, and what is served after it. `signals`: given so far, ties too."""

    number: int
    signals: int
    adapter: str
    outcome: str
    """`promoted`, or why the adapter that was there stays."""
    said: Said
    kl: float
    """To base, nats a token, of the adapter served, on the answers that it was trained on."""


class Learning:
    """The learner's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def round(self, arm: Arm) -> RoundReport:
        order = {"alias": arm.name, "from_base": arm.from_base, "forgets": arm.forgets}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        answer = await self._process.stdout.readline()
        if not answer.startswith(b'{"'):
            raise StackError(f"{arm.name}: the learner reported nothing; see its log")
        return RoundReport.model_validate_json(answer)


@contextlib.asynccontextmanager
async def start_learning(stack: Stack) -> AsyncIterator[Learning]:
    command = [sys.executable, "-m", "benchmarks._continual_learner", stack.url, str(stack.directory / "learner")]
    with (stack.directory / "logs" / "learner.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, limit=MAX_REPORT_BYTES
        )
    try:
        yield Learning(process)
    finally:
        process.terminate()
        await process.wait()


@dataclass(slots=True)
class Installation:
    stack: Stack
    sizes: Sizes
    server: PlumblineClient
    openai: AsyncOpenAI
    meter: Meter
    base_skills: list[bool] = field(default_factory=list)

    async def measure(self, model: str, *, tilted: bool) -> Said:
        """`tilted`: scenes with the new shape, too."""
        if not self.base_skills:
            self.base_skills = await self.meter.answer_skills(BASE, silent)
        found = await self.meter.describe(model, 1, silent)
        drop = mean_difference(self.base_skills, await self.meter.answer_skills(model, silent))
        said = Said(found.hallucination, found.coverage, short_share(found), words(found), drop)
        if not tilted:
            return said
        asked = questions_with_tilted(self.sizes.descriptions + self.sizes.skills, self.sizes.tilted)
        strange = await self.meter.describe(model, 1, silent, asked)
        return replace(said, tilted=rightly_named(strange), tilted_hallucination=strange.hallucination)

    async def live(self, arm: Arm, learning: Learning, tell: Callable[[Served], None]) -> list[Served]:
        """All rounds of one arm, each told when it has been measured."""
        timeline = self.sizes.timeline
        people = make_users(USERS, USERS_SEED)
        for one in people:
            one.corrects = CORRECTS
        ledger = Ledger()
        crowd = Crowd(self.openai, arm.name, people, ledger, Budget(0, 0), self.sizes.best_of, CONCURRENCY)
        crowd.compare = True
        served: list[Served] = []
        for number in timeline.numbers:
            if not served or timeline.wordiness(number) != timeline.wordiness(number - 1):
                for one in people:
                    one.change_taste(timeline.wordiness(number))
            crowd.question = timeline.question(number)
            await self._collect(crowd, self.sizes.round_signals if number > 0 else self.sizes.opening_signals)
            report = await learning.round(arm)
            served.append(await self._served(arm, number, ledger.signals, report, served))
            tell(served[-1])
        if ledger.failed:
            raise StackError(f"requests failed: {list(ledger.failures)}")
        return served

    async def _collect(self, crowd: Crowd, signals: int) -> None:
        budget = crowd.budget = Budget(signals, signals)
        budget.release()
        crowd.start()
        try:
            while budget.is_open:
                await asyncio.sleep(0.1)
                crowd.check()
                self.stack.check()
        finally:
            await crowd.stop()

    async def _served(
        self, arm: Arm, number: int, signals: int, report: RoundReport, before: Sequence[Served]
    ) -> Served:
        outcome = await self._decide(arm, report)
        if outcome == "promoted":
            assert report.adapter is not None
            adapter, kl = report.adapter, report.detail["after"]["kl"]
        else:
            adapter, kl = (before[-1].adapter, before[-1].kl) if before else (BASE, 0.0)
        said = await self.measure(adapter, tilted=number >= self.sizes.timeline.shape_appears - 1)
        return Served(number, signals, adapter, outcome, said, kl)

    async def _decide(self, arm: Arm, report: RoundReport) -> str:
        """What became of the adapter: an operator promotes what the gate let pass."""
        if report.adapter is None:
            return f"{report.outcome}: {report.reason}"
        adapter = report.adapter
        found = await self._decided(adapter)
        if found.state == "rejected":
            last = (await asyncio.to_thread(self.server.adapter_report, adapter)).reports[-1]
            failed = [check["name"] for check in last["body"].get("checks", ()) if check["outcome"] == "failed"]
            return f"rejected: {', '.join(failed) or last['kind']}"
        move = MoveRequest(reason=f"{arm.name}: the gate let it pass")
        await asyncio.to_thread(self.server.move_adapter, adapter, "promote", move)
        return "promoted"

    async def _decided(self, adapter: str) -> AdapterReply:
        deadline = time.monotonic() + DECISION_TIMEOUT_S
        while (found := await asyncio.to_thread(self.server.adapter, adapter)).state not in DECIDED:
            if time.monotonic() > deadline:
                raise StackError(f"{adapter} is still {found.state}")
            await asyncio.sleep(0.2)
        return found


@contextlib.contextmanager
def open_installation(arms: Sequence[Arm], sizes: Sizes) -> Iterator[Installation]:
    """Server and engine, ready."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_suites(directory / "suites", GATE_DESCRIPTIONS, GATE_SKILLS)
        settings = server_settings(ORDINARY, {}, directory / "suites")
        template = settings["aliases"][0] | {"best_of": sizes.best_of, "rollout": {"automatic": False}}
        # Short answers and long ones are both what people ask for, and held-out choices of an old taste are no measure
        # of the new one: the newest count.
        template["gate"] |= {"max_length_ratio": 3.0, "max_preference_pairs": 20}
        settings["aliases"] = [template | {"name": arm.name, "learner": arm.learner} for arm in arms]
        with Stack(directory, settings) as stack:
            stack.wait_ready()
            openai = connect(stack.url)
            meter = Meter(openai, Ledger(), sizes.descriptions, sizes.skills, MEASURE_CONCURRENCY)
            yield Installation(stack, sizes, PlumblineClient(stack.url), openai, meter)


def silent(done: int, of: int) -> None:
    """A measurement of which nobody watches the progress."""

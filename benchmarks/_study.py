"""One installation on which many recipes learn from the same people: signals, adapters, and what each adapter says.

People of the demo chat with the base model until they have given so many signals; nothing learns meanwhile. Then each
recipe learns from those signals in a process of its own, from the base model, and its adapter is asked through the
server for descriptions and skills on scenes that nobody has shown. Nothing is ever promoted, so every recipe has the
same parent and the same signals. A share of what people said may be turned round on its way to the learner.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clients.client import PlumblineClient
from clients.demo.budget import Budget
from clients.demo.chat import connect
from clients.demo.crowd import Crowd
from clients.demo.language import Question, description_question
from clients.demo.ledger import Ledger
from clients.demo.measure import Descriptions, Meter, Tick
from clients.demo.scenes import EVALUATION_SEEDS
from clients.demo.settings import ORDINARY, server_settings
from clients.demo.statistics import Figure, mean_difference
from clients.demo.users import User, make_users
from clients.stack import Stack, StackError
from learner.model import CONFIG_FILE
from learner.publish import describe_files
from server.wire.adapters import AdapterManifest
from server.wire.base import BASE
from server.wire.training import (
    FeedPage,
    LeaseReply,
    LeaseRequest,
    Pair,
    RoundReport,
    TrainingConfig,
    TrainingGroup,
    Unpaired,
)

USERS: Final = 24
BEST_OF: Final = 8
CONCURRENCY: Final = 4
MEASURE_CONCURRENCY: Final = 48
DECISION_TIMEOUT_S: Final = 120.0
DECIDED: Final = frozenset({"gated", "rejected"})


@dataclass(frozen=True, slots=True)
class Sizes:
    seeds: tuple[int, ...]
    """Each another crowd."""
    signals: int
    """Of each crowd."""
    descriptions: int
    skills: int

    @property
    def crowds(self) -> list[str]:
        """Aliases: for each seed people who choose too, and people who give thumbs alone."""
        return [crowd_name(seed, thumbs_only) for seed in self.seeds for thumbs_only in (False, True)]


def crowd_name(seed: int, thumbs_only: bool = False) -> str:
    return f"{'thumbs' if thumbs_only else 'crowd'}-{seed}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to learn: the alias's `learner` settings, and what is done to the signals before."""

    name: str
    learner: dict[str, Any]
    flips: float = 0.0
    """Share of people's signals that are turned round."""
    contrary: frozenset[str] = frozenset()
    """Annotators all of whose signals are turned round."""
    is_speechless: bool = False
    """Learns from the answers that were given, and hears nothing that anybody or any rule said of them."""
    thumbs_only: bool = False
    """Learns from people who give thumbs alone."""
    reward_model: bool = False
    """All answers that people were offered are judged by a reward model of the same people's pairs, made first."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What an adapter says. `skills_drop`: against the base model, on the same questions."""

    hallucination: Figure
    coverage: Figure
    skills_drop: Figure


@dataclass(frozen=True, slots=True)
class Learned:
    """An adapter, and what the learner reported of its round."""

    adapter: str
    seconds: float
    """From the order, of a process's first round from the process's start, to the answer."""
    detail: dict[str, Any]


Learning = Callable[[str, Recipe, str], Learned]
"""(alias, recipe, name of the learner's state)."""


class Study:
    """A running installation. One alias for each crowd."""

    def __init__(self, stack: Stack, directory: Path, descriptions: int, skills: int) -> None:
        self._stack = stack
        self._directory = directory
        self._client = PlumblineClient(stack.url)
        self._openai = connect(stack.url)
        self._meter = Meter(self._openai, Ledger(), descriptions, skills, MEASURE_CONCURRENCY)
        self._base_skills: list[bool] = []

    @property
    def client(self) -> PlumblineClient:
        return self._client

    async def collect(
        self,
        alias: str,
        users: Sequence[User],
        signals: int,
        tick: Tick,
        *,
        best_of: int = BEST_OF,
        concurrency: int = CONCURRENCY,
        question: Callable[[int], Question] = description_question,
    ) -> int:
        """Let people chat until they have given so many signals; how many requests that took."""
        budget, ledger = Budget(signals, signals), Ledger()
        crowd = Crowd(self._openai, alias, users, ledger, budget, best_of, concurrency, question=question)
        budget.release()
        crowd.start()
        try:
            while budget.is_open:
                await asyncio.sleep(0.2)
                crowd.check()
                self._stack.check()
                tick(budget.settled, signals)
        finally:
            await crowd.stop()
        if ledger.failed:
            raise StackError(f"requests failed: {list(ledger.failures)}")
        return ledger.requests

    def groups(self, alias: str) -> list[TrainingGroup]:
        """Everything that the feed tells of, the oldest first, as it was said."""
        found: dict[str, TrainingGroup] = {}
        after, head = 0, 1
        while after < head:
            page = self._client.training_feed(alias, after)
            found |= {entry.group_id: entry.group for entry in page.entries if entry.group is not None}
            after, head = page.next, page.head
        return list(found.values())

    def learn(self, alias: str, recipe: Recipe) -> Learned:
        """One round of the real learner, in a process of its own that has seen nothing before."""
        with self.learning() as learning:
            return learning(alias, recipe, f"learner-{alias}-{recipe.name}")

    @contextlib.contextmanager
    def learning(self) -> Iterator[Learning]:
        """A process that learns as it is ordered, one round after the other; each starts from the base model.

        Recipes that name the same state share the groups and images that were fetched for the first of them, and the
        reward model. A round of which no adapter came raises `StackError`.
        """
        command = [sys.executable, "-m", "benchmarks._study_learner", self._stack.url]
        log = self._directory / "learner.log"
        starts = [time.perf_counter()]
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None

            def learn(alias: str, recipe: Recipe, state: str) -> Learned:
                started = starts.pop() if starts else time.perf_counter()
                order = {
                    "alias": alias,
                    "state": str(self._directory / state),
                    "learner": recipe.learner,
                    "flips": recipe.flips,
                    "contrary": sorted(recipe.contrary),
                    "is_speechless": recipe.is_speechless,
                    "reward_model": recipe.reward_model,
                }
                print(json.dumps(order), file=process.stdin, flush=True)
                answer = json.loads(process.stdout.readline() or "{}")
                seconds = time.perf_counter() - started
                if not answer.get("adapter"):
                    said = answer.get("reason") or log.read_text()[-2000:]
                    raise StackError(f"{recipe.name} learned nothing:\n{said}")
                self._await_decision(answer["adapter"])
                return Learned(answer["adapter"], seconds, answer["detail"])

            try:
                yield learn
            finally:
                process.stdin.close()

    def adopt(self, alias: str, files: Mapping[str, bytes]) -> str:
        """The id of an adapter that was trained elsewhere, PEFT's `files`, uploaded as an operator does it."""
        config = self._client.training_config(alias)
        described = json.loads(files[CONFIG_FILE]) | {"base_model_name_or_path": config.base_model}
        told = {**files, CONFIG_FILE: json.dumps(described).encode()}
        manifest = AdapterManifest(alias=alias, base_digest=config.base_digest, files=describe_files(told))
        adapter = self._client.upload_adapter(manifest, told).id
        self._await_decision(adapter)
        return adapter

    def _await_decision(self, adapter: str) -> None:
        deadline = time.monotonic() + DECISION_TIMEOUT_S
        while (found := self._client.adapter(adapter)).state not in DECIDED:
            if time.monotonic() > deadline:
                raise StackError(f"{adapter} is still {found.state}")
            time.sleep(0.2)
        if found.state == "rejected":
            raise StackError(f"{adapter} was rejected: {self._client.adapter_report(adapter).reports[-1]}")

    async def measure(self, model: str, tick: Tick) -> Quality:
        """Through the server: descriptions at temperature 1 and skills, greedily; of `model` alone."""
        if not self._base_skills:
            self._base_skills = await self._meter.answer_skills(BASE, tick)
        said = await self.describe(model, tick)
        skills = await self._meter.answer_skills(model, tick)
        return Quality(said.hallucination, said.coverage, mean_difference(self._base_skills, skills))

    async def describe(self, model: str, tick: Tick, count: int | None = None) -> Descriptions:
        """Of the evaluation's scenes, at temperature 1, one candidate each; of so many of them, or as `measure` has."""
        asked = None if count is None else [description_question(seed) for seed in EVALUATION_SEEDS[:count]]
        return await self._meter.describe(model, 1, tick, asked)


@contextlib.contextmanager
def open_study(
    crowds: Sequence[str], descriptions: int, skills: int, own: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[Study]:
    """A server with an alias for each of `crowds`, ready; the gate refuses nothing and nothing is tried on people.

    `own`: by crowd, settings that its alias alone has.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        settings = server_settings(ORDINARY, {}, directory)
        template = settings["aliases"][0] | {
            "gate": {"preference_margin": 1.0, "preference_nats": 1e6, "max_length_ratio": 1e6, "max_kl": 1e6},
            "rollout": {"automatic": False},
            "signals": {"holdout_share": 0.0, "reward_groups": True},
        }
        settings["aliases"] = [template | (own or {}).get(crowd, {}) | {"name": crowd} for crowd in crowds]
        with Stack(directory, settings) as stack:
            stack.wait_ready()
            yield Study(stack, directory, descriptions, skills)


def people(seed: int, *, thumbs_only: bool = False) -> tuple[User, ...]:
    """The demo's users, or as many who give thumbs alone."""
    users = make_users(USERS, seed)
    if thumbs_only:
        users = tuple(User(one.id, gives_thumbs_only=True, seed=one.seed) for one in users)
    return users


class TurnedRound(PlumblineClient):
    """A server whose alias learns as ordered, and some of whose people say the opposite of what they think.

    Whose signals are turned round depends on the group and the annotator alone, so each recipe sees the same ones.
    Those of the `contrary` annotators always are. A speechless server tells of answers and of no word about them.
    """

    def __init__(
        self,
        url: str,
        learner: dict[str, Any],
        flips: float,
        contrary: Collection[str] = (),
        *,
        is_speechless: bool = False,
    ) -> None:
        super().__init__(url)
        self._learner = learner
        self._flips = flips
        self._contrary = frozenset(contrary)
        self._is_speechless = is_speechless
        self.rewards: Mapping[str, float] = {}
        """By candidate, instead of what the server's scorers say."""
        self.report: RoundReport | None = None
        """What the learner said of its round."""

    def lease(self, request: LeaseRequest) -> LeaseReply:
        """As the same learner each time: nobody waits for the last recipe's lease to end."""
        return super().lease(request.model_copy(update={"owner": "study"}))

    def report_round(self, report: RoundReport) -> None:
        self.report = report
        super().report_round(report)

    def training_config(self, alias: str) -> TrainingConfig:
        return super().training_config(alias).model_copy(update={"learner": self._learner})

    def training_feed(self, alias: str, after: int, limit: int | None = None) -> FeedPage:
        page = super().training_feed(alias, after, limit)
        for entry in page.entries:
            if entry.group is not None:
                group = entry.group
                if self._is_speechless:
                    group.pairs, group.unpaired = [], []
                group.pairs = [self._pair(group.id, pair) for pair in group.pairs]
                group.unpaired = [self._thumb(group.id, thumb) for thumb in group.unpaired]
                for candidate in group.candidates:
                    if candidate.id in self.rewards:
                        candidate.total = self.rewards[candidate.id]
                        candidate.scores = {"reward_bt": candidate.total}
        return page

    def _is_turned(self, group: str, annotator: str) -> bool:
        return annotator in self._contrary or random.Random(f"{group} {annotator}").random() < self._flips

    def _pair(self, group: str, pair: Pair) -> Pair:
        if pair.source == "safety" or not self._is_turned(group, pair.annotator):
            return pair
        return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})

    def _thumb(self, group: str, thumb: Unpaired) -> Unpaired:
        turned = self._is_turned(group, thumb.annotator)
        return thumb.model_copy(update={"desirable": not thumb.desirable}) if turned else thumb

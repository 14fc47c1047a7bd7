"""What a model does on scenes that no user has shown, asked through the server, nothing kept (`store: false`).

Before and after see the same scenes, prompts and sampling seeds; descriptions at temperature 1, top_p 1 and at most
64 tokens, skills at temperature 0. Refused descriptions are counted apart: they neither invent nor name anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import openai
from openai import AsyncOpenAI

from clients.demo.chat import Answer, ask
from clients.demo.language import (
    Question,
    absent_objects,
    description_question,
    is_correct,
    missed_objects,
    skill_question,
)
from clients.demo.ledger import Ledger
from clients.demo.scenes import EVALUATION_SEEDS
from clients.demo.statistics import Counted, Figure, share_over_scenes, wilson

Tick = Callable[[int, int], None]
"""(done, of)."""


class MeasurementFailed(Exception):
    """A request of a measurement failed: its figures would be about something else."""


@dataclass(frozen=True, slots=True)
class Descriptions:
    """Descriptions of the same scenes by one model."""

    questions: Sequence[Question]
    answers: Sequence[Answer]

    @property
    def hallucination(self) -> Figure:
        """Share of the descriptions given that name something absent."""
        given = self.given
        return wilson(sum(bool(absent_objects(asked.scene, text)) for asked, text in given), len(given))

    @property
    def coverage(self) -> Figure:
        """Share of the objects in view that are named."""
        return share_over_scenes(
            [
                (
                    float(len(asked.scene.shapes) - len(missed_objects(asked.scene, text))),
                    float(len(asked.scene.shapes)),
                )
                for asked, text in self.given
            ]
        )

    @property
    def refused(self) -> Figure:
        return wilson(sum(one.choices[0].is_refusal for one in self.answers), len(self.answers))

    @property
    def blocked(self) -> list[Counted]:
        """(candidates that the safety rule blocked, candidates) of each scene."""
        return [(float(one.blocked), float(one.candidates)) for one in self.answers]

    @property
    def given(self) -> list[tuple[Question, str]]:
        """The answers that were not refused."""
        pairs = zip(self.questions, self.answers, strict=True)
        return [(asked, one.choices[0].text) for asked, one in pairs if not one.choices[0].is_refusal]


@dataclass(frozen=True, slots=True)
class Meter:
    """Asks the same things again and again. `descriptions` and `skills` are how many."""

    client: AsyncOpenAI
    ledger: Ledger
    descriptions: int
    skills: int
    concurrency: int

    async def describe(
        self, model: str, best_of: int, tick: Tick, asked: Sequence[Question] | None = None
    ) -> Descriptions:
        """Descriptions by `model` (an alias, an adapter id or "base"), of the evaluation's scenes or as `asked`."""
        if asked is None:
            asked = [description_question(seed) for seed in EVALUATION_SEEDS[: self.descriptions]]
        sampling = {"temperature": 1.0, "top_p": 1.0}
        return Descriptions(asked, await self._ask_all(model, asked, best_of, sampling, tick))

    async def answer_skills(self, model: str, tick: Tick) -> list[bool]:
        """Which skill questions are answered rightly, greedily."""
        seeds = EVALUATION_SEEDS[self.descriptions : self.descriptions + self.skills]
        asked = [skill_question(seed) for seed in seeds]
        answers = await self._ask_all(model, asked, 1, {"temperature": 0.0}, tick)
        return [is_correct(one, answer.choices[0].text) for one, answer in zip(asked, answers, strict=True)]

    async def _ask_all(
        self, model: str, asked: Sequence[Question], best_of: int, sampling: dict[str, Any], tick: Tick
    ) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(asked)
        todo = iter(range(len(asked)))
        done = 0

        async def work(places: Iterator[int]) -> None:
            nonlocal done
            for place in places:
                answers[place] = await self._ask_one(model, asked[place], best_of, sampling)
                done += 1
                tick(done, len(asked))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(work(todo))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [one for one in answers if one is not None]

    async def _ask_one(self, model: str, asked: Question, best_of: int, sampling: dict[str, Any]) -> Answer:
        body = {"best_of": best_of, "plumbline": {"explain": True}}
        try:
            answer = await ask(
                self.client, model, asked, seed=asked.scene.seed, store=False, extra_body=body, **sampling
            )
        except openai.OpenAIError as error:
            self.ledger.failure(f"{type(error).__name__}: {error}"[:300])
            raise MeasurementFailed(str(error)) from error
        self.ledger.reply(answer.texts, answer.adapter, time.time())
        return answer

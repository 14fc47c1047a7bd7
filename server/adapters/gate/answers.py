"""Sampled answers of adapters on suite items: each (adapter, prompt, sampling) is asked once and remembered.

The seed follows from the prompt alone, so suites that share prompts share answers, and two adapters are compared
under the same random numbers. Answers of the active adapter and of base stay from one gate to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from reward.types import Candidate, Prompt
from server import prompts
from server.adapters.gate.suites import Suite
from server.engine.port import Engine, Sampling
from server.wire.base import BASE

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    prompt: Prompt
    candidate: Candidate

    @property
    def text(self) -> str:
        return self.candidate.text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.candidate.token_ids

    @property
    def logprobs(self) -> tuple[float, ...]:
        return self.candidate.logprobs


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and how its answer is drawn. Equal questions get equal answers."""

    digest: str
    prompt: Prompt
    sampling: Sampling

    @property
    def key(self) -> tuple[str, Sampling]:
        return (self.digest, self.sampling)


def questions(suite: Suite) -> list[Question]:
    """One for each item, in order."""
    found = []
    for item in suite.items:
        digest = prompts.digest(item.prompt)
        sampling = Sampling(
            max_tokens=suite.config.max_tokens,
            temperature=0.0 if suite.config.greedy else 1.0,
            seed=int(digest[:8], 16),
        )
        found.append(Question(digest, item.prompt, sampling))
    return found


OnProgress = Callable[[int, int], None]
"""(calls that are done, calls in all)"""


async def gather_bounded(
    calls: Iterable[Callable[[], Awaitable[T]]], limit: int, on_progress: OnProgress = lambda done, total: None
) -> list[T]:
    """The results in order, at most `limit` at once; the first failure cancels the rest and is raised."""
    slots = asyncio.Semaphore(limit)
    done = 0

    async def run(call: Callable[[], Awaitable[T]]) -> T:
        nonlocal done
        async with slots:
            result = await call()
        done += 1
        on_progress(done, len(tasks))
        return result

    tasks = [asyncio.ensure_future(run(call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class AnswerBook:
    """Answers by adapter. Raises `EngineError` as the engine does; what was answered before that stays."""

    def __init__(self, engine: Engine, *, concurrency: int) -> None:
        self._engine = engine
        self._concurrency = concurrency
        self._known: dict[str, dict[tuple[str, Sampling], Answer]] = {}

    async def answers(
        self, adapter: str, asked: Sequence[Question], on_progress: OnProgress = lambda done, total: None
    ) -> list[Answer]:
        """One answer for each question, in order."""
        known = self._known.setdefault(adapter, {})
        missing = {one.key: one for one in asked if one.key not in known}

        async def ask(question: Question) -> None:
            known[question.key] = await self._ask(adapter, question)

        await gather_bounded([partial(ask, one) for one in missing.values()], self._concurrency, on_progress)
        return [known[one.key] for one in asked]

    def keep_only(self, adapters: Collection[str]) -> None:
        """Forget everybody else's answers."""
        self._known = {adapter: known for adapter, known in self._known.items() if adapter in adapters}

    async def _ask(self, adapter: str, question: Question) -> Answer:
        model = self._engine.base_model if adapter == BASE else adapter
        generation = await self._engine.generate(model, question.prompt, 1, question.sampling)
        return Answer(question.prompt, generation.candidates[0])

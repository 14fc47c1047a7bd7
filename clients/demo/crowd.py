"""The simulated users at work: they chat without pause, and rate while the budget lets them.

Several users are served at once; one user asks one thing at a time. Users with thumbs judge single answers, the
others choose between two. Everything goes through the stock `openai` client; a request that fails is counted, and the
crowd goes on.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import openai
from openai import AsyncOpenAI

from clients.demo.budget import Budget
from clients.demo.chat import Answer, Said, ask
from clients.demo.language import Question, description_question, leaks
from clients.demo.ledger import Ledger
from clients.demo.scenes import USER_SEEDS, Scene
from clients.demo.users import User, utility
from server.wire.signals import SignalReply

GOOD_UTILITY = -1.0
"""Two like answers above this are both good: nothing absent and nothing missed."""


@dataclass(slots=True)
class Crowd:
    """All users of one run. `concurrency` of them are served at once."""

    client: AsyncOpenAI
    alias: str
    users: Sequence[User]
    ledger: Ledger
    budget: Budget
    best_of: int
    concurrency: int
    pause_s: float = 0.0
    """How long each of those served takes to read, at present."""
    question: Callable[[int], Question] = description_question
    """What is asked, by the scene's seed."""
    compare: Literal[True, "auto"] = "auto"
    """Whether choices are also about wording alone (`True`)."""
    _seeds: Iterator[int] = field(default_factory=lambda: iter(USER_SEEDS), init=False)
    _waiting: deque[User] = field(init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, init=False)
    _leaving: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._waiting = deque(self.users)

    def start(self) -> None:
        self._leaving = False
        self._tasks = [asyncio.create_task(self._serve(), name=f"crowd {n}") for n in range(self.concurrency)]

    async def stop(self) -> None:
        """Let everybody finish what they are at; raises what a user's task raised."""
        self._leaving = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    def check(self) -> None:
        """Raises what a user's task raised."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _serve(self) -> None:
        while not self._leaving:
            user = self._waiting.popleft()
            try:
                await self._exchange(user, scene_seed=next(self._seeds))
            except openai.OpenAIError as error:
                self.ledger.failure(f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(0.2)
            finally:
                self._waiting.append(user)
            await asyncio.sleep(self.pause_s)

    async def _exchange(self, user: User, scene_seed: int) -> None:
        """One question, its answer, and perhaps an opinion about it."""
        asked = self.question(scene_seed)
        options = {"best_of": self.best_of, "plumbline": {"compare": False if user.gives_thumbs_only else self.compare}}
        answer = await ask(
            self.client,
            self.alias,
            asked,
            user=user.id,
            logprobs=True,
            temperature=1.0,
            top_p=1.0,
            extra_body=options,
        )
        self.ledger.reply(answer.texts, answer.adapter, time.time())
        if answer.choices[0].is_refusal:
            return
        self.ledger.description(asked.scene, answer.choices[0].text)
        correction = user.correction(asked.scene, answer.texts)
        if correction is not None:
            await self._correct(user, answer, correction)
        elif user.gives_thumbs_only:
            await self._thumb(user, asked.scene, answer)
        elif answer.is_comparison:
            await self._choose(user, asked.scene, answer)

    async def _correct(self, user: User, answer: Answer, correction: str) -> None:
        said = answer.choices[0]
        body = {"completion_id": answer.completion, "candidate_id": said.candidate, "correction": correction}
        await self._signal("/feedback", body, user, is_tie=False)

    async def _thumb(self, user: User, view: Scene, answer: Answer) -> None:
        said = answer.choices[0]
        thumb = user.thumb(view, said.text, said.tokens)
        if thumb is not None:
            body = {"completion_id": answer.completion, "candidate_id": said.candidate, "rating": thumb}
            await self._signal("/feedback", body, user, is_tie=False)

    async def _choose(self, user: User, view: Scene, answer: Answer) -> None:
        first, second = answer.choices[:2]
        body: dict[str, Any] = {"completion_id": answer.completion}
        choice = user.choose(view, [(first.text, first.tokens), (second.text, second.tokens)])
        if choice == "tie":
            body["tie"] = "good" if _is_good(view, first) else "bad"
        else:
            chosen, rejected = (first, second) if choice == 0 else (second, first)
            body |= {"chosen": chosen.candidate, "rejected": rejected.candidate}
        await self._signal("/preferences", body, user, is_tie=choice == "tie")

    async def _signal(self, path: str, body: dict[str, Any], user: User, *, is_tie: bool) -> None:
        """Send it, if users may rate now. A signal that fails is still a signal that was sent."""
        if not self.budget.take():
            return
        self.ledger.signals += 1
        trainable = False
        try:
            reply = await self.client.post(
                path,
                cast_to=object,
                body={**body, "user": user.id},
                options={"headers": {"Idempotency-Key": uuid.uuid4().hex}},
            )
            trainable = SignalReply.model_validate(reply).trainable
        finally:
            self.budget.settle(is_useful=trainable and not is_tie)


def _is_good(view: Scene, said: Said) -> bool:
    return utility(view, said.text, said.tokens) > GOOD_UTILITY and not leaks(said.text)

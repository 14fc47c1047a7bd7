"""The part `latency` of `benchmarks.best_of_n`: the service, optillm and a plain script, one request at a time.

The shapes model is no judge: it gives every answer the same mark, and after 64 of them the service counts the judge as
failed. It has asked it nevertheless, and waited for every mark, so the time is that of a judge that works.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Final

import aiohttp
from rich.progress import track

from benchmarks import _best_of_n_sides as sides
from benchmarks._optillm import short_ratings
from clients.demo.language import Question
from reward.types import Image, Message, Prompt
from server.config.scorers import JudgeConfig
from server.json_endpoint import JsonEndpoint
from server.scorers.judging import mark_from, pointwise_body

WARM_UP: Final = 2
"""Rounds."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """In `with_optillm` of them optillm itself takes part, which takes longest."""

    all: int
    with_optillm: int


@dataclass(frozen=True, slots=True)
class Peers:
    """optillm's proxies, by URL: before the engine, and before a relay that keeps ratings short (on `relay_port`)."""

    optillm: str
    brief: str
    relay_port: int


async def latency(
    session: aiohttp.ClientSession,
    running: sides.Sides,
    peers: Peers | None,
    questions: Iterator[Question],
    rounds: Rounds,
) -> dict[str, float]:
    """Sides take turns, and each begins as often as the others."""
    script = PlainScript(running.engine)

    async def service(asked: Question) -> object:
        body = sides.body(sides.JUDGED, asked, best_of=sides.COUNT)
        return await sides.ask(session, running.service, body, may_degrade=True)

    def optillm(url: str) -> Callable[[Question], Awaitable[object]]:
        return lambda asked: sides.ask(session, url, sides.body(str(sides.SHAPES), asked, has_image=False))

    asked_of: dict[str, Callable[[Question], Awaitable[object]]] = {
        "service": service,
        "naive": lambda asked: script.answer(session, asked),
    }
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(aclosing(script))
        if peers is not None:
            await stack.enter_async_context(short_ratings(peers.relay_port, running.engine))
            asked_of |= {"optillm_brief": optillm(peers.brief), "optillm": optillm(peers.optillm)}
        taken = await take_turns(asked_of, questions, rounds)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    result = {f"{name}_ms": 1000 * seconds for name, seconds in medians.items()}
    others = [name for name in medians if name != "service"]
    return result | {f"vs_{name}_latency": medians["service"] / medians[name] for name in others}


async def take_turns(
    asked_of: dict[str, Callable[[Question], Awaitable[object]]], questions: Iterator[Question], rounds: Rounds
) -> dict[str, list[float]]:
    """Seconds of each request, by side; what only warms up is left out."""
    taken: dict[str, list[float]] = {name: [] for name in asked_of}
    for number in track(range(-WARM_UP, rounds.all), description="latency"):
        order = [name for name in asked_of if name != "optillm" or number < rounds.with_optillm]
        start = number % len(order)
        for name in (*order[start:], *order[:start]):
            question = next(questions)
            started = time.perf_counter()
            await asked_of[name](question)
            if number >= 0:
                taken[name].append(time.perf_counter() - started)
    return taken


class PlainScript:
    """Eight answers of the engine in one request, then the judge's mark for one after the other; the best is kept.

    It asks what the service's judge asks, word for word; it does not notice that some answers are equal.
    """

    def __init__(self, engine_url: str) -> None:
        self._config = JudgeConfig.model_validate(sides.judge_settings(engine_url))
        self._url = engine_url
        self._judge = JsonEndpoint(self._config.url, "", max_connections=1, timeout_s=sides.TIMEOUT_S)

    async def aclose(self) -> None:
        await self._judge.close()

    async def answer(self, session: aiohttp.ClientSession, asked: Question) -> str:
        made = sides.texts(await sides.ask(session, self._url, sides.body(str(sides.SHAPES), asked, n=sides.COUNT)))
        image = Image(str(asked.scene.seed), asked.scene.mime, asked.scene.render())
        prompt = Prompt((Message("user", (image, asked.prompt)),))
        marks = [
            mark_from(
                await self._judge.post("/chat/completions", pointwise_body(self._config, prompt, text)), self._config
            )
            for text in made
        ]
        return made[marks.index(max(marks))]

"""Streaming clients that write down what they were told, and two adapters whose answers never agree.

Used by `benchmarks.hot_swap`: the crowd asks the same few greedy questions for as long as it is let. What each adapter
answers to them is known, so the text itself tells who gave it, whatever the reply says.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from clients.demo.scenes import EVALUATION_SEEDS, scene
from tests.engine_fixture import write_random_adapter

QUESTIONS = 8
MAX_TOKENS = 12
TELLING_CHARS = 6
"""Two answers are told apart by their beginnings; later tokens may differ by the batch in which they were computed."""
SEEDS = {"A": 101, "B": 102}
SCALE = 0.3
"""Random weights so large that the two adapters say something different from base and from each other."""


def messages(question: int) -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": scene(EVALUATION_SEEDS[question]).data_url()}}
    return [{"role": "user", "content": [image, {"type": "text", "text": "Describe the image."}]}]


MESSAGES = [messages(question) for question in range(QUESTIONS)]


def adapter_files(directory: Path, model: str, family: str, number: int) -> dict[str, bytes]:
    """An adapter of a family. Each number gives other bytes (one weight, in its last digits) and the same answers."""
    written = write_random_adapter(directory, f"{family}{number}", model, SCALE, SEEDS[family])
    tensors = (written / "adapter_model.safetensors").read_bytes()
    (last,) = struct.unpack("<f", tensors[-4:])
    tensors = tensors[:-4] + struct.pack("<f", last * (1 + 1e-5 * number))
    return {
        "adapter_config.json": (written / "adapter_config.json").read_bytes(),
        "adapter_model.safetensors": tensors,
    }


@dataclass(slots=True)
class Asked:
    """One request. Times are `time.perf_counter` seconds."""

    question: int
    sent_at: float
    admitted_at: float = 0.0
    """When the reply's headers arrived."""
    ended_at: float = 0.0
    text: str = ""
    adapter: str = ""
    generation: int = -1
    candidates: frozenset[str] = frozenset()
    """The adapters of all candidates, where more than one was generated."""
    is_whole: bool = False
    """The end was told: an answer may have no text."""
    error: str = ""

    @property
    def latency_s(self) -> float:
        return self.ended_at - self.sent_at


@dataclass(slots=True)
class Crowd:
    """`size` clients, each with one request after the other. `extra` is added to every body."""

    url: str
    model: str
    size: int = 8
    pairs: bool = False
    """Every fourth request has two sampled candidates and asks which adapters gave them."""
    asked: list[Asked] = field(default_factory=list)
    on_answer: Callable[[Asked], None] = lambda one: None
    session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """The clients are at it inside of the block; the last answers are awaited."""
        go_on = asyncio.Event()
        go_on.set()
        numbers = itertools.count()

        async def client() -> None:
            while go_on.is_set():
                await self.ask(next(numbers))

        # Shorter than uvicorn's 5 s, so that no request meets a connection that is just being closed.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
            self.session = session
            clients = [asyncio.create_task(client()) for _ in range(self.size)]
            try:
                yield
            finally:
                go_on.clear()
                await asyncio.gather(*clients)

    async def ask(self, number: int) -> Asked:
        """One streamed request, noted down however it ends."""
        assert self.session is not None
        body: dict[str, Any] = {"model": self.model, "stream": True, "temperature": 0, "max_tokens": MAX_TOKENS}
        if self.pairs:
            body["user"] = f"user-{number % 64}"
            if number % 4 == 3:
                body |= {"temperature": 1, "best_of": 2, "seed": number, "plumbline": {"explain": True}}
        one = Asked(number % QUESTIONS, time.perf_counter())
        body["messages"] = MESSAGES[one.question]
        try:
            async with self.session.post(f"{self.url}/v1/chat/completions", json=body) as reply:
                one.admitted_at = time.perf_counter()
                if reply.status != 200:
                    one.error = f"HTTP {reply.status}"
                async for line in reply.content:
                    if line.startswith(b"data: {"):
                        _note(one, json.loads(line[6:]))
        except (aiohttp.ClientError, TimeoutError) as error:
            one.error = type(error).__name__
        one.ended_at = time.perf_counter()
        if not one.error and not one.is_whole:
            one.error = "no end"
        self.asked.append(one)
        self.on_answer(one)
        return one


def _note(one: Asked, event: dict[str, Any]) -> None:
    if "error" in event:
        one.error = str(event["error"].get("code", "error"))
        return
    for choice in event.get("choices", ()):
        one.text += choice.get("delta", {}).get("content") or ""
        one.is_whole = one.is_whole or choice.get("finish_reason") is not None
    if alignment := event.get("plumbline"):
        one.adapter, one.generation = alignment["adapter"], alignment["generation"]
        if explanation := alignment.get("explanation"):
            one.candidates = frozenset(candidate["adapter"] for candidate in explanation["candidates"])


@dataclass(frozen=True, slots=True)
class Detector:
    """Knows what each family answers to each question."""

    answers: dict[str, list[str]]

    def check(self) -> None:
        """The families must be told apart on every question."""
        for texts in zip(*self.answers.values(), strict=True):
            beginnings = {text[:TELLING_CHARS] for text in texts}
            if len(beginnings) < len(self.answers):
                raise SystemExit(f"the adapters cannot be told apart by {texts}")

    def family(self, one: Asked) -> str:
        """Who gave the answer, by its text; empty: nobody known."""
        for family, texts in self.answers.items():
            if one.text[:TELLING_CHARS] == texts[one.question][:TELLING_CHARS]:
                return family
        return ""

"""Answers that come piece by piece. Iterating gives the first answer's text as it grows; then `answer` is there.

What is gathered is pure (`Gathering`); the two streams only read. A stream carries texts: ask for tool calls without
one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Self, TypeVar

import openai
from openai.types.chat import ChatCompletionChunk

from clients.client import PlumblineError
from clients.sdk.answers import Answer, AsyncAnswer, understood
from server.wire.chat import ChatReply

AnswerT = TypeVar("AnswerT")


class Gathering:
    """Chunks, put together to what the whole reply would have been."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = defaultdict(str)
        self._choices: dict[int, dict[str, Any]] = {}
        self._reply: dict[str, Any] = {}

    def take(self, chunk: ChatCompletionChunk) -> str:
        """What the chunk adds to the first answer."""
        said = chunk.to_dict()
        self._reply |= {name: said[name] for name in ("id", "created", "model", "usage", "plumbline") if said.get(name)}
        for one in chunk.choices:
            self._texts[one.index] += one.delta.content or ""
            known = {"finish_reason": one.finish_reason, "candidate_id": getattr(one, "candidate_id", None)}
            self._choices.setdefault(one.index, {}).update({name: value for name, value in known.items() if value})
        return "".join(one.delta.content or "" for one in chunk.choices if one.index == 0)

    def reply(self) -> ChatReply:
        """Raises `PlumblineError` for a stream that ended too early."""
        if "plumbline" not in self._reply:
            raise PlumblineError(0, "the stream broke off before its end", type="connection_error")
        choices = [
            {**choice, "index": index, "message": {"content": self._texts[index]}}
            for index, choice in sorted(self._choices.items())
        ]
        return understood({**self._reply, "choices": choices})


class BaseStream(Generic[AnswerT]):
    """What the two streams share: what was gathered, and the answer that is made of it."""

    def __init__(self, answered: Callable[[ChatReply], AnswerT]) -> None:
        self._gathering = Gathering()
        self._answered = answered
        self._answer: AnswerT | None = None

    @property
    def answer(self) -> AnswerT:
        """The whole answer. Raises `RuntimeError` before the stream was read to its end."""
        if self._answer is None:
            raise RuntimeError("the answer is there once the stream was read to its end")
        return self._answer

    def _end(self) -> None:
        self._answer = self._answered(self._gathering.reply())


class AnswerStream(BaseStream[Answer]):
    """Of a `Plumbline`. Closed at its end, and by leaving its `with` block early."""

    def __init__(self, source: openai.Stream[ChatCompletionChunk], answered: Callable[[ChatReply], Answer]) -> None:
        super().__init__(answered)
        self._source = source

    def __iter__(self) -> Iterator[str]:
        for chunk in self._source:
            if piece := self._gathering.take(chunk):
                yield piece
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()


class AsyncAnswerStream(BaseStream[AsyncAnswer]):
    """Of an `AsyncPlumbline`. The same, with `async for` and `async with`."""

    def __init__(
        self, source: openai.AsyncStream[ChatCompletionChunk], answered: Callable[[ChatReply], AsyncAnswer]
    ) -> None:
        super().__init__(answered)
        self._source = source

    async def __aiter__(self) -> AsyncIterator[str]:
        async for chunk in self._source:
            if piece := self._gathering.take(chunk):
                yield piece
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._source.close()

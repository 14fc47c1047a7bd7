"""The two clients: each sends what the pure parts built, through its own stock `openai` client, and wraps the reply."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, Final, Generic, Self, TypeVar, Unpack

import openai

from clients.sdk.answers import Answer, AskedT, AsyncAnswer, understood
from clients.sdk.opinions import Opinions, Receipt, Said, SentT
from clients.sdk.questions import Options, Question, question
from clients.sdk.streams import AnswerStream, AsyncAnswerStream
from server.wire.signals import SignalReply

DEFAULT_SERVER: Final = "http://127.0.0.1:8400"
TIMEOUT_S: Final = 120.0
MAX_RETRIES: Final = 2

StreamedT = TypeVar("StreamedT")


def connection(base_url: str | None, api_key: str | None, timeout_s: float, max_retries: int) -> dict[str, Any]:
    """Arguments of either `openai` client. What is not said comes from PLUMBLINE_URL and PLUMBLINE_KEY."""
    url = base_url or os.environ.get("PLUMBLINE_URL") or DEFAULT_SERVER
    key = api_key or os.environ.get("PLUMBLINE_KEY") or "local"  # the `openai` client wants one; local mode reads none
    base = url.rstrip("/").removesuffix("/v1")
    return {"base_url": f"{base}/v1", "api_key": key, "timeout": timeout_s, "max_retries": max_retries}


class BasePlumbline(ABC, Generic[SentT, AskedT, StreamedT]):
    """What the two clients share: everything but the sending."""

    def __init__(self, model: str) -> None:
        self._model = model

    def chat(self, prompt: str, **options: Unpack[Options]) -> AskedT:
        """Ask, and wait for the whole answer. Raises the `openai` package's errors, and what reading images raises."""
        return self._ask(self._question(prompt, options))

    def stream(self, prompt: str, **options: Unpack[Options]) -> StreamedT:
        """Ask, and read the answer while it comes: iterate over its pieces, then take `answer`.

        With one candidate it comes token by token; with more, once the best is known.
        """
        return self._open(self._question(prompt, options).streamed())

    def opinions(self, receipt: Receipt) -> Opinions[SentT]:
        """Of an answer that was given earlier, to whatever process: `answer.receipt` is all that must be kept."""
        return Opinions(receipt, self._send)

    def _question(self, prompt: str, options: Options) -> Question:
        return question(prompt, options, model=self._model)

    @abstractmethod
    def _ask(self, question: Question) -> AskedT: ...

    @abstractmethod
    def _open(self, question: Question) -> StreamedT: ...

    @abstractmethod
    def _send(self, said: Said) -> SentT: ...


class Plumbline(BasePlumbline[SignalReply, Answer, AnswerStream]):
    """A Plumbline server as an app sees it. One client may be shared by threads.

    `model`: the alias to ask where a question names none. `max_retries`: how often a call is repeated that got no
    reply, 408, 409, 429 or 5xx; opinions carry an Idempotency-Key, so they count once all the same.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        model: str = "default",
        timeout_s: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        super().__init__(model)
        self.openai = openai.OpenAI(**connection(base_url, api_key, timeout_s, max_retries))
        """The stock client, for all else."""

    def _ask(self, question: Question) -> Answer:
        completion = self.openai.chat.completions.create(**question.arguments)
        return Answer(understood(completion.to_dict()), question, self._send, self._ask)

    def _open(self, question: Question) -> AnswerStream:
        source = self.openai.chat.completions.create(**question.arguments)
        return AnswerStream(source, lambda reply: Answer(reply, question, self._send, self._ask))

    def _send(self, said: Said) -> SignalReply:
        reply = self.openai.post(said.path, cast_to=object, body=said.body, options={"headers": said.headers})
        return SignalReply.model_validate(reply)

    def close(self) -> None:
        self.openai.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncPlumbline(BasePlumbline[Awaitable[SignalReply], Awaitable[AsyncAnswer], Awaitable[AsyncAnswerStream]]):
    """The same, asynchronous: `chat`, `stream` and what is said about answers are awaited."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        model: str = "default",
        timeout_s: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        super().__init__(model)
        self.openai = openai.AsyncOpenAI(**connection(base_url, api_key, timeout_s, max_retries))
        """The stock client, for all else."""

    async def _ask(self, question: Question) -> AsyncAnswer:
        completion = await self.openai.chat.completions.create(**question.arguments)
        return AsyncAnswer(understood(completion.to_dict()), question, self._send, self._ask)

    async def _open(self, question: Question) -> AsyncAnswerStream:
        source = await self.openai.chat.completions.create(**question.arguments)
        return AsyncAnswerStream(source, lambda reply: AsyncAnswer(reply, question, self._send, self._ask))

    async def _send(self, said: Said) -> SignalReply:
        reply = await self.openai.post(said.path, cast_to=object, body=said.body, options={"headers": said.headers})
        return SignalReply.model_validate(reply)

    async def close(self) -> None:
        await self.openai.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

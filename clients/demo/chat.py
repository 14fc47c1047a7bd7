"""One chat request about a scene through the stock `openai` client, and what of its answer the demo needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from clients.demo.language import Question
from server.wire.chat import ChatReply

MAX_TOKENS: Final = 64
TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Said:
    """One choice of an answer."""

    candidate: str
    text: str
    tokens: int
    is_refusal: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request."""

    completion: str
    adapter: str
    generation: int
    choices: tuple[Said, ...]
    is_comparison: bool
    candidates: int
    """Candidates generated."""
    blocked: int
    """Candidates that a safety rule blocked; counted only where the request asked to `explain`."""

    @property
    def texts(self) -> list[str]:
        return [said.text for said in self.choices]


def connect(url: str) -> AsyncOpenAI:
    """The stock client, without retries: a failed request is to be seen."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S)


async def ask(client: AsyncOpenAI, model: str, asked: Question, **options: Any) -> Answer:
    """Send one request. `options` are OpenAI's, with `best_of`, `store` and `plumbline` in `extra_body`; with
    `logprobs` each choice has its own count of tokens.
    """
    reply = await client.chat.completions.create(
        model=model, messages=_messages(asked), max_tokens=MAX_TOKENS, **options
    )
    return read(reply)


def read(completion: ChatCompletion) -> Answer:
    """The parts that the demo looks at, by the wire's own models."""
    reply = ChatReply.model_validate(completion.to_dict())
    explained = reply.plumbline.explanation.candidates if reply.plumbline.explanation else []
    return Answer(
        completion=reply.id,
        adapter=reply.plumbline.adapter,
        generation=reply.plumbline.generation,
        choices=tuple(
            Said(
                choice.candidate_id,
                choice.message.content or "",
                len(choice.logprobs.content) if choice.logprobs else reply.usage.served_tokens,
                choice.finish_reason == "content_filter",
            )
            for choice in reply.choices
        ),
        is_comparison=len(reply.plumbline.compare) == 2,
        candidates=reply.plumbline.generated,
        blocked=sum(one.text is None for one in explained),
    )


def _messages(asked: Question) -> list[Any]:
    return [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": asked.scene.data_url()}},
                {"type": "text", "text": asked.prompt},
            ],
        }
    ]

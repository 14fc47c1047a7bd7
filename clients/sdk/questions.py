"""What is asked: a prompt with its images and options, as arguments of the `openai` client. No I/O but image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from openai.types.chat import (
    ChatCompletionContentPartParam,
    ChatCompletionMessageParam,
    ChatCompletionUserMessageParam,
)

from clients.sdk.images import ImageLike, image_part
from server.wire.chat import StrategyName

BODY: Final = frozenset({"best_of"})
"""Plumbline's fields of the request beside OpenAI's."""
ALIGNMENT: Final = frozenset({"compare", "explain", "selection", "early_reject"})
"""Those of its field `plumbline`."""
STREAMING: Final = frozenset({"stream", "stream_options"})


class Options(TypedDict, total=False):
    """What may be said with a prompt; everything may be left out, and then the server or its alias decides."""

    images: Sequence[ImageLike]
    """Shown before the prompt."""
    system: str
    """Instruction of the conversation; not together with a `history` that begins with one."""
    history: Sequence[ChatCompletionMessageParam]
    """Earlier turns, as `answer.messages` gives them."""
    model: str
    """The alias to ask; the client's own if absent."""
    best_of: int | Literal["auto"]
    """Candidates to generate."""
    n: int
    """Answers to return, the best first."""
    compare: bool | Literal["auto"]
    """Return a second answer for the user to compare; `auto`: only where the two say different things."""
    explain: bool
    """Report every candidate's scores and verdicts, and why the answer was chosen."""
    selection: StrategyName
    early_reject: bool
    user: str
    """Whose question it is: opaque, and the unit by which people are told apart."""
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop: str | list[str]
    store: bool
    """False: answered, never kept, and nothing can be said about it."""
    more: Mapping[str, Any]
    """Further fields of the request, as `tools`, `response_format` or `top_k`."""


@dataclass(frozen=True, slots=True)
class Question:
    """One chat request, complete."""

    arguments: Mapping[str, Any]
    """Of `openai.OpenAI().chat.completions.create`."""

    @property
    def messages(self) -> list[ChatCompletionMessageParam]:
        return list(self.arguments["messages"])

    def streamed(self) -> Question:
        """The same, to be answered piece by piece."""
        return Question({**self.arguments, "stream": True, "stream_options": {"include_usage": True}})

    def again(self, completion_id: str) -> Question:
        """The same, because its answer did not please; without its seed, which would bring the same answer."""
        kept = {name: value for name, value in self.arguments.items() if name not in STREAMING | {"seed"}}
        extra = kept.get("extra_body", {})
        options = {**extra.get("plumbline", {}), "regenerate_of": completion_id}
        return Question({**kept, "extra_body": {**extra, "plumbline": options}})


def question(prompt: str, options: Options, *, model: str) -> Question:
    """`model`: asked where the options name none. Raises what reading the images raises."""
    said: dict[str, Any] = {"model": model, **options}
    images: Sequence[ImageLike] = said.pop("images", ())
    system: str | None = said.pop("system", None)
    messages: list[ChatCompletionMessageParam] = list(said.pop("history", ()))
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    parts: list[ChatCompletionContentPartParam] = [image_part(one) for one in images]
    turn: ChatCompletionUserMessageParam = {"role": "user", "content": prompt}
    if parts:
        turn["content"] = [*parts, {"type": "text", "text": prompt}]
    extra: dict[str, Any] = {**said.pop("more", {}), **{name: said.pop(name) for name in BODY & said.keys()}}
    if alignment := {name: said.pop(name) for name in ALIGNMENT & said.keys()}:
        extra["plumbline"] = alignment
    arguments = {**said, "messages": [*messages, turn]}
    return Question({**arguments, "extra_body": extra} if extra else arguments)

"""An answer: what it says, how it came about, and what can be said about it. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Self, TypeVar

from openai.types.chat import ChatCompletionMessageParam
from pydantic import ValidationError

from clients.client import PlumblineError
from clients.sdk.opinions import Opinions, Receipt, Said, SentT
from clients.sdk.questions import Question
from server.wire.chat import Alignment, CandidateExplanation, ChatReply, Choice
from server.wire.signals import SignalReply

AskedT = TypeVar("AskedT")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate of an answer."""

    id: str
    text: str | None
    """None: blocked, or given up half-way."""
    is_shown: bool
    """Among what the user sees; opinions are about these."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """What each scorer said, in its own unit. This and what follows: with `explain` only."""
    verdicts: Mapping[str, str] = field(default_factory=dict)
    total: float | None = None
    probability: float | None = None
    """With which it was chosen."""

    @classmethod
    def of(cls, choice: Choice, about: CandidateExplanation | None) -> Self:
        return cls(choice.candidate_id, choice.message.content, True, **_explained(about))

    @classmethod
    def unshown(cls, about: CandidateExplanation) -> Self:
        return cls(about.candidate_id, about.text, False, **_explained(about))


def _explained(about: CandidateExplanation | None) -> dict[str, Any]:
    if about is None:
        return {}
    return {
        "scores": about.scores,
        "verdicts": about.verdicts,
        "total": about.total,
        "probability": about.probability,
    }


class BaseAnswer(Opinions[SentT], Generic[SentT, AskedT]):
    """What the two kinds of answers share: all but the types of what their methods give."""

    def __init__(
        self, reply: ChatReply, question: Question, send: Callable[[Said], SentT], ask: Callable[[Question], AskedT]
    ) -> None:
        super().__init__(receipt_of(reply), send)
        self.reply = reply
        """The whole reply, typed."""
        self._question = question
        self._ask = ask

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, adapter={self.adapter!r}, text={self.text!r})"

    @property
    def id(self) -> str:
        """The completion's."""
        return self.reply.id

    @property
    def text(self) -> str:
        """The best answer; empty where the model called a tool."""
        return self.reply.choices[0].message.content or ""

    @property
    def finish_reason(self) -> Literal["stop", "length", "content_filter", "tool_calls"]:
        """`content_filter`: every candidate was blocked, and `text` is the alias's refusal."""
        return self.reply.choices[0].finish_reason

    @property
    def adapter(self) -> str:
        """Who answered; `base` without one."""
        return self.about.adapter

    @property
    def about(self) -> Alignment:
        """How the answer came about."""
        return self.reply.plumbline

    @property
    def candidates(self) -> list[Candidate]:
        """What was shown, the best first; with `explain` the other candidates behind it."""
        explained = (
            {one.candidate_id: one for one in self.about.explanation.candidates} if self.about.explanation else {}
        )
        shown = [Candidate.of(one, explained.pop(one.candidate_id, None)) for one in self.reply.choices]
        return [*shown, *map(Candidate.unshown, explained.values())]

    @property
    def messages(self) -> list[ChatCompletionMessageParam]:
        """The conversation with this answer, as `history` of the next question."""
        return [*self._question.messages, {"role": "assistant", "content": self.text}]

    def regenerate(self) -> AskedT:
        """Another answer to the same question; when it pleases more, that is learned from."""
        return self._ask(self._question.again(self.id))


class Answer(BaseAnswer[SignalReply, "Answer"]):
    """Of a `Plumbline`."""


class AsyncAnswer(BaseAnswer[Awaitable[SignalReply], Awaitable["AsyncAnswer"]]):
    """Of an `AsyncPlumbline`: what it does is awaited."""


def receipt_of(reply: ChatReply) -> Receipt:
    return Receipt(
        completion_id=reply.id,
        candidates=tuple(one.candidate_id for one in reply.choices),
        feedback_token=reply.plumbline.feedback_token,
    )


def understood(reply: Mapping[str, Any]) -> ChatReply:
    """The reply, typed. Raises `PlumblineError` where somebody else than a Plumbline server answered."""
    try:
        return ChatReply.model_validate(reply)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = f"this is not the reply of a Plumbline server ({where}: {first['msg']}); is base_url right?"
        raise PlumblineError(200, message, type="invalid_reply") from error

"""What the server may ask of an engine. Adapters: `VllmEngine` (HTTP, real) and `FakeEngine` (unit tests)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reward.types import Candidate, Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. Names and ranges are those of vLLM's OpenAI chat route; None leaves its default."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int = 0
    """Alternatives reported for each token, beside the sampled one."""
    certainty_top_k: int = 0
    """Likeliest log-probabilities at each token that `Candidate.alternatives` holds, for scorers. Streams have none."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit)."""
    json_schema: str | None = None
    """An answer that ends by itself is JSON that fits this schema (one that `server.wire.json_schema` lets through)."""

    forced_tools: tuple[str, ...] = ()
    """Functions of the prompt's tools: the answer is a call of one of them, as `server.tool_calls` writes it."""

    @property
    def is_on_policy(self) -> bool:
        """True when the logged raw log-probabilities are those of the distribution that was sampled."""
        return (
            self.temperature == 1.0
            and self.top_p == 1.0
            and self.top_k is None
            and self.min_p is None
            and self.presence_penalty == 0.0
            and self.frequency_penalty == 0.0
            and self.repetition_penalty is None
            and not self.logit_bias
            and self.json_schema is None
            and not self.forced_tools
        )


@dataclass(frozen=True, slots=True)
class TokenAlternatives:
    """The most likely tokens at one position, as (text, natural-log probability), the likeliest first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """The answers to one engine request, in index order, and the prompt as the engine saw it.

    `prompt_token_ids` has the image placeholders expanded; training uses these ids and never tokenises.
    `tokens` has one tuple of alternatives for each candidate, in the same order.
    """

    prompt_token_ids: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    tokens: tuple[tuple[TokenAlternatives, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Beginning:
    """What there is of an answer: its text, and the ids as they were sampled. Empty: nothing yet."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    ends: tuple[str, ...] = ()
    """How far it is to go on: up to and with the first of these; none: to the answer's end."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the one streamed answer. `finish_reason` is set on the last piece only."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    tokens: tuple[TokenAlternatives, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    """On the first piece only."""
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """A given answer under a model: its token ids as the engine encodes the text, one log-probability each.

    Re-encoded text can differ from the sampled ids; compare `token_ids` before mixing the two.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = field(repr=False)

    @property
    def total(self) -> float:
        return sum(self.logprobs)


@dataclass(frozen=True, slots=True)
class EncodedAnswers:
    """A prompt's ids with image placeholders expanded, and each given answer's own ids, without an end of turn."""

    prompt_token_ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


class EngineError(Exception):
    """The engine did not answer as it should. `retryable`: the same request may succeed later."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class EngineUnreachable(EngineError):
    """The connection to the engine failed: it is gone, or was while it answered."""


class PromptTooLong(EngineError):
    """The prompt (images included) and `max_tokens` do not fit the engine's context."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class RefusedParameter(EngineError):
    """The engine cannot do what a parameter asks for. `parameter`: its name in `Sampling`."""

    def __init__(self, parameter: str) -> None:
        super().__init__(f"the engine refuses {parameter}", retryable=False)
        self.parameter = parameter


class Retokenised(EngineError):
    """The engine reads an answer's beginning as other tokens than were sampled: it cannot go on from there."""

    def __init__(self) -> None:
        super().__init__("an answer's beginning is read as other tokens than were sampled", retryable=False)


class UnknownModel(EngineError):
    """The engine knows neither a base model nor an adapter of this name."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class Engine(Protocol):
    """One engine (one vLLM process), or several that answer alike. Safe for concurrent use on one event loop.

    `model` is always either the base model's served name or an adapter id; adapters are pulled by the engine
    itself from the shared adapter directory on first use. Every call raises `EngineError` and nothing else;
    cancelling a call aborts its requests in the engine.
    """

    @property
    def base_model(self) -> str:
        """The name under which the engine serves the base model."""
        ...

    async def generate(self, model: str, prompt: Prompt, n: int, sampling: Sampling) -> Generation:
        """`n` answers on one shared prompt. At temperature 0 `n` must be 1."""
        ...

    async def extend(self, model: str, prompt: Prompt, beginning: Beginning, n: int, sampling: Sampling) -> Generation:
        """`n` ways in which an answer's beginning goes on.

        Candidates hold what was added: one that paused at one of `beginning.ends` has the finish reason `STEP`, others
        have come to the answer's end. `prompt_token_ids` are the prompt's alone, without the beginning.
        `sampling.max_tokens` bounds what is added; `stop`, schemas and forced tools are not for this call. Raises
        `Retokenised`.
        """
        ...

    async def can_extend(self, beginning: Beginning) -> bool:
        """Whether the engine reads the beginning's text as the very tokens that were sampled; the model does not run.

        Text goes back into the engine, and now and then is encoded otherwise than it was sampled. What would be drawn
        from there on is no continuation of the sampled tokens.
        """
        ...

    def stream(self, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        """One answer, piece by piece. Closing the generator (`aclose`) early aborts the rest in the engine."""
        ...

    async def score(self, model: str, prompt: Prompt, answer: str) -> ScoredAnswer:
        """Log-probabilities of a given answer's text (without the end-of-turn token) by one prefill, no sampling."""
        ...

    async def encode(self, prompt: Prompt, answers: Sequence[str]) -> EncodedAnswers:
        """Token ids as a request would get them; the model does not run. Raises `PromptTooLong` where an answer
        does not fit behind the prompt.
        """
        ...

    async def speaks_of_tools(self) -> bool:
        """Whether the model's chat template tells it of tools, and writes calls as `server.tool_calls` reads them."""
        ...

    async def is_ready(self) -> bool:
        """Whether a real token was generated just now, within a deadline. Never raises."""
        ...

    async def version(self) -> str:
        """The engine software's version, as stored with each group."""
        ...

    async def close(self) -> None:
        """Release connections; idempotent."""
        ...


class Replica(Engine, Protocol):
    """One engine as those see it who look after it: the supervisor and the pool."""

    @property
    def progress(self) -> int:
        """Grows whenever the engine answered something."""
        ...

    async def warm_up(self) -> None:
        """Send what makes first requests fast; raises `EngineError`."""
        ...

    async def loaded_adapters(self) -> frozenset[str]:
        """The adapters that the engine knows by name just now; raises `EngineError`."""
        ...

    async def unload(self, adapter: str) -> None:
        """Let the engine forget an adapter; a later request loads it again. One that it does not know is no error.

        Requests that run on it go on. Raises `EngineError`.
        """
        ...

"""Chat completions and the list of models, as OpenAI has them (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from server.wire.base import Id, Label, NoNul, Reply, Text, UserName, Wire
from server.wire.training import TrainingGroup


class TextPart(Wire):
    type: Literal["text"]
    text: Text


class ImageUrl(Wire):
    url: str
    """`data:image/...;base64,...` or an https address."""
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Wire):
    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Wire):
    """One turn. Images belong to user turns."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[ContentPart], Field(min_length=1, max_length=256)]
    name: Annotated[str, StringConstraints(max_length=64)] | None = None

    @model_validator(mode="after")
    def _images_from_users(self) -> Self:
        if self.role != "user" and any(isinstance(part, ImagePart) for part in self.content):
            raise ValueError("only user messages can hold images")
        return self


class StreamOptions(Wire):
    include_usage: bool = False


class ChatOptions(Wire):
    """Plumbline's own options of a chat request."""

    explain: bool = False
    """Report every candidate's scores, verdicts and probability, and the reason of the choice."""
    compare: bool | Literal["auto"] = False
    """Return a second answer to be compared by the user, as a second choice. `auto`: only where the candidates differ
    in what they say, not only in how; else a single answer is returned."""
    selection: Literal["argmax"] | None = None
    """Selection strategy; the alias's own when absent."""
    regenerate_of: Id | None = None
    """The completion whose answer the user asked to have again."""
    return_group: bool = False
    """Return the whole group as training data (operator and learner)."""


OPENAI_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "presence_penalty": (None,),
    "prompt_cache_key": (None,),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""OpenAI's fields that are accepted at these values only (then they say nothing), else refused by name."""


class ChatRequest(Wire):
    """OpenAI's chat completion request, with `best_of` (candidates generated) and the `plumbline` options."""

    model: Annotated[str, StringConstraints(min_length=1), NoNul]
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: int = Field(1, ge=1, le=256)
    best_of: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    seed: int | None = Field(None, ge=0, le=2**62)
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(max_length=4)] = []
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    user: UserName | None = None
    metadata: Annotated[dict[Label, Annotated[str, StringConstraints(max_length=512)]], Field(max_length=16)] = {}
    store: bool = True
    """False: served, never kept and never trained on."""
    plumbline: ChatOptions = ChatOptions()

    @model_validator(mode="before")
    @classmethod
    def _drop_defaults(cls, data: Any) -> Any:
        """Null means absent, as for OpenAI; unsupported OpenAI fields pass at their default values."""
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            defaults = OPENAI_DEFAULTS.get(name)
            if value is None or (defaults is not None and name not in cls.model_fields and value in defaults):
                if name in cls.model_fields or defaults is not None:
                    continue
            elif defaults is not None and name not in cls.model_fields:
                raise ValueError(f"{name} is not supported here")
            kept[name] = value
        return kept

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class TopLogprob(Reply):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = []


class ChoiceLogprobs(Reply):
    content: list[TokenLogprob]


class AnswerMessage(Reply):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = None


class Choice(Reply):
    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "content_filter"]
    logprobs: ChoiceLogprobs | None = None
    candidate_id: str


class Usage(Reply):
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated for all candidates."""
    total_tokens: int
    served_tokens: int
    """Tokens of the returned choices alone."""


class CandidateExplanation(Reply):
    """One candidate as the pipeline saw it. `text` is None for a blocked one."""

    candidate_id: str
    adapter: str
    text: str | None = None
    scores: dict[str, float | None]
    total: float | None = None
    verdicts: dict[str, str]
    probability: float


class Explanation(Reply):
    reason: str
    candidates: list[CandidateExplanation]


class Alignment(Reply):
    """How the answer came about."""

    adapter: str
    generation: int
    best_of: int
    generated: int
    selection: str
    degraded: list[str] = []
    """Scorers that failed for this request."""
    feedback_token: str | None = None
    """Lets its bearer give feedback on this answer; absent when the answer is not kept."""
    compare: list[str] = []
    """Candidate ids of two choices that the user may compare."""
    explanation: Explanation | None = None
    group: TrainingGroup | None = None


class ChatReply(Reply):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    plumbline: Alignment


class ChunkDelta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Reply):
    index: int
    delta: ChunkDelta
    finish_reason: Literal["stop", "length", "content_filter"] | None = None
    logprobs: ChoiceLogprobs | None = None
    candidate_id: str | None = None


class ChatChunk(Reply):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    plumbline: Alignment | None = None
    """On the last chunk."""


class ModelCard(Reply):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "plumbline"


class ModelList(Reply):
    object: Literal["list"] = "list"
    data: list[ModelCard]

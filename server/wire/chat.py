"""Chat completions and the list of models, as OpenAI has them (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from server.wire.base import Id, Label, NoNul, Reply, Text, UserName, Wire
from server.wire.json_schema import ANY_OBJECT, as_text, check_schema
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

    @field_validator("image_url", mode="before")
    @classmethod
    def _is_an_object(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError('give an object, as {"url": "data:image/png;base64,..."}')
        return value


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class CalledFunction(Wire):
    name: FunctionName
    arguments: Text
    """A JSON object."""

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, value: str) -> str:
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError("the arguments of a tool call are a JSON object")
        return value


class ToolCallPart(Wire):
    """A call that the assistant made in an earlier turn."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=256), NoNul]
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Wire):
    """One turn. Images belong to user turns, calls to the assistant's, their results to those of tools."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[ContentPart], Field(min_length=1, max_length=256)] | None = None
    name: Annotated[str, StringConstraints(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCallPart], Field(max_length=32)] | None = None
    tool_call_id: Annotated[str, StringConstraints(min_length=1, max_length=256), NoNul] | None = None
    refusal: None = None

    @model_validator(mode="after")
    def _fits_the_role(self) -> Self:
        if self.role != "user" and any(isinstance(part, ImagePart) for part in self.content or ()):
            raise ValueError("only user messages can hold images")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only assistant messages can hold tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id belongs to messages of the role tool, and these need one")
        if self.content is None and not self.tool_calls:
            raise ValueError("the message has no content")
        return self


class ToolFunction(Wire):
    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=4096), NoNul] = ""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    """A JSON schema, bounded as that of `response_format`."""
    strict: bool | None = None
    """Whatever it says, the arguments of a call that is asked for (`required`, a name) are held to the schema."""

    @field_validator("parameters")
    @classmethod
    def _parameters_are_bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_schema(value)
        return value


class ToolDefinition(Wire):
    type: Literal["function"]
    function: ToolFunction


class NamedFunction(Wire):
    name: FunctionName


class NamedTool(Wire):
    type: Literal["function"]
    function: NamedFunction


class NamedSchema(Wire):
    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str, StringConstraints(max_length=1024)] | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    """Whatever it says, the answer is held to the schema."""

    @field_validator("json_schema")
    @classmethod
    def _schema_is_bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_schema(value)
        return value


class ResponseFormat(Wire):
    """What an answer has to be: any text, a JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('json_schema belongs to "type": "json_schema", and to nothing else')
        return self


class StreamOptions(Wire):
    include_usage: bool = False


StrategyName = Literal["argmax", "soft", "mbr", "pessimistic", "stepwise"]
"""How one of the candidates is chosen; `stepwise`: sentence by sentence, while they are generated."""


class ChatOptions(Wire):
    """Plumbline's own options of a chat request."""

    explain: bool = False
    """Report every candidate's scores, verdicts and probability, and the reason of the choice."""
    compare: bool | Literal["auto"] = False
    """Return a second answer to be compared by the user, as a second choice. `auto`: only where the candidates differ
    in what they say, not only in how; else a single answer is returned."""
    selection: StrategyName | None = None
    """Selection strategy; the alias's own when absent."""
    early_reject: bool | None = None
    """Give up the weaker candidates while they grow; as the alias says when absent."""
    regenerate_of: Id | None = None
    """The completion whose answer the user asked to have again."""
    return_group: bool = False
    """Return the whole group as training data (operator and learner)."""


OPENAI_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "prompt_cache_key": (None,),
    "reasoning_effort": (None,),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""OpenAI's fields that are accepted at these values only (then they say nothing), else refused by name."""


class ChatRequest(Wire):
    """OpenAI's chat completion request, with `best_of` (candidates generated) and the `plumbline` options."""

    model: Annotated[str, StringConstraints(min_length=1), NoNul]
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: int = Field(1, ge=1, le=256)
    best_of: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Candidates to generate; `auto`: as many as are worth their cost, up to the alias's bound."""
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
    logit_bias: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,7}$")], Annotated[float, Field(ge=-100, le=100)]],
        Field(max_length=300),
    ] = {}
    """By token id: added to the token's logit."""
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=64)] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    """False: of several calls in one answer the first counts."""
    user: UserName | None = None
    metadata: Annotated[dict[Label, Annotated[str, StringConstraints(max_length=512)]], Field(max_length=16)] = {}
    store: bool = True
    """False: served, never kept and never trained on."""
    plumbline: ChatOptions = Field(default_factory=ChatOptions)

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

    @model_validator(mode="after")
    def _alternatives_belong_to_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @model_validator(mode="after")
    def _tools_fit_together(self) -> Self:
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) != len(names):
            raise ValueError("tools names a function twice")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("tool_choice names a function that tools does not hold")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice required needs tools")
        if self.may_call_tools and self.answer_schema is not None:
            raise ValueError("response_format is not supported together with tools that may be called")
        return self

    @property
    def may_call_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def forced_tools(self) -> tuple[str, ...]:
        """Functions of which one has to be called."""
        if isinstance(self.tool_choice, NamedTool):
            return (self.tool_choice.function.name,)
        return tuple(tool.function.name for tool in self.tools) if self.tool_choice == "required" else ()

    @property
    def speaks_of_tools(self) -> bool:
        return bool(self.tools) or any(one.role == "tool" or one.tool_calls for one in self.messages)

    @property
    def has_images_to_fetch(self) -> bool:
        parts = (part for one in self.messages if isinstance(one.content, list) for part in one.content)
        return any(isinstance(part, ImagePart) and part.image_url.url[:5].lower() != "data:" for part in parts)

    @property
    def answer_schema(self) -> str | None:
        """The JSON schema that the answer has to fit, as compact JSON; None: any text will do."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        return ANY_OBJECT if wanted.json_schema is None else as_text(wanted.json_schema.json_schema)

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]


class Nullable(Reply):
    """OpenAI sends these fields as null, where others that say nothing are left out."""

    NULLS: ClassVar[dict[str, None]] = {}

    @model_serializer(mode="wrap")
    def _with_nulls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = handler(self)
        return self.NULLS | said


class TopLogprob(Reply):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = []


class ChoiceLogprobs(Nullable):
    NULLS = {"refusal": None}

    content: list[TokenLogprob]


class FunctionCall(Reply):
    name: str
    arguments: str
    """JSON."""


class ToolCallReply(Reply):
    index: int | None = None
    """In a stream's chunks only."""
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AnswerMessage(Nullable):
    NULLS = {"content": None, "refusal": None}

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    tool_calls: list[ToolCallReply] | None = None


class Choice(Nullable):
    NULLS = {"logprobs": None}

    index: int
    message: AnswerMessage
    finish_reason: FinishReason
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
    """One candidate as the pipeline saw it. `text` is None for one that is blocked, or was given up half-way.

    The finish reason `step` is that of a stepwise answer's beginning, which ends with one of the sentences to choose
    from.
    """

    candidate_id: str
    adapter: str
    text: str | None = None
    finish_reason: str
    scores: dict[str, float | None]
    """What each scorer said, in its own unit."""
    total: float | None = None
    """What it was chosen by: scores calibrated and combined."""
    value: float | None = None
    """The scores' weighted sum, uncalibrated: comparable between requests."""
    disagreement: float = 0.0
    """Standard deviation of the total's parts."""
    verdicts: dict[str, str]
    probability: float


class StepExplanation(Reply):
    """One step of a stepwise answer: the candidates that go on from the same beginning, and which of them was kept."""

    candidates: list[str]
    kept: str | None = None
    """None: none of them could be."""
    reason: str


class Explanation(Reply):
    reason: str
    candidates: list[CandidateExplanation]
    steps: list[StepExplanation] | None = None
    """Of a stepwise answer."""


class Alignment(Reply):
    """How the answer came about."""

    adapter: str
    generation: int
    best_of: int
    """Candidates asked for; at most so many with `best_of: "auto"`."""
    generated: int
    """Candidates generated, those that were given up half-way included."""
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
    tool_calls: list[ToolCallReply] | None = None


class ChunkChoice(Nullable):
    NULLS = {"finish_reason": None, "logprobs": None}

    index: int
    delta: ChunkDelta
    finish_reason: FinishReason | None = None
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

"""The models of the HTTP API: what goes over the wire, and nothing else. Imports nothing heavy.

Field names are OpenAI's where OpenAI has them (https://platform.openai.com/docs/api-reference/chat). Unknown
fields are refused at any depth. Times are UTC seconds since the epoch; log-probabilities are natural.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Text = Annotated[str, StringConstraints(max_length=200_000)]
Comment = Annotated[str, StringConstraints(max_length=4_000)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64)]

BASE = "base"
"""The name under which the base model stands wherever an adapter id could stand."""


class Wire(BaseModel):
    """A request: strict about types' ranges and about unknown fields; JSON's NaN and Infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Reply(BaseModel):
    """A reply: a client of an older version ignores fields it does not know."""

    model_config = ConfigDict(extra="ignore")


# --- errors -----------------------------------------------------------------------------------------------


class ErrorBody(Reply):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(Reply):
    error: ErrorBody


# --- chat -------------------------------------------------------------------------------------------------


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

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
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


# --- signals ----------------------------------------------------------------------------------------------


class FeedbackRequest(Wire):
    """One person's opinion of one answer."""

    completion_id: Id
    candidate_id: Id | None = None
    """Which shown candidate; absent: the first choice."""
    rating: Literal["up", "down"] | Annotated[float, Field(ge=-1, le=1)] | None = None
    user: UserName | None = None
    comment: Comment | None = None
    correction: Annotated[str, StringConstraints(min_length=1, max_length=20_000)] | None = None
    labels: Annotated[list[Label], Field(max_length=16)] = []

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.rating is None and self.correction is None and self.comment is None and not self.labels:
            raise ValueError("feedback needs a rating, a correction, a comment or labels")
        return self


class PreferenceRequest(Wire):
    """One person's comparison of shown candidates of one completion: a choice, a ranking or a tie."""

    completion_id: Id
    chosen: Id | None = None
    rejected: Annotated[list[Id], Field(min_length=1, max_length=64)] | None = None
    ranking: Annotated[list[Id], Field(min_length=2, max_length=64)] | None = None
    """Best first."""
    tie: Literal["good", "bad"] | None = None
    user: UserName | None = None

    @field_validator("rejected", mode="before")
    @classmethod
    def _rejected_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected come together")
        if [self.chosen is not None, self.ranking is not None, self.tie is not None].count(True) != 1:
            raise ValueError("give either chosen and rejected, or ranking, or tie")
        if self.rejected is not None and self.chosen in self.rejected:
            raise ValueError("chosen and rejected must differ")
        if self.ranking is not None and len(set(self.ranking)) != len(self.ranking):
            raise ValueError("ranking names a candidate twice")
        return self


class SignalReply(Reply):
    """The stored signal. `trainable` is False when it can never become training data."""

    id: str
    completion_id: str
    trainable: bool


# --- training ---------------------------------------------------------------------------------------------


class TrainingCandidate(Reply):
    """One candidate with the tokens that the engine sampled and their log-probabilities at that time.

    A correction typed by a person is a candidate too (`adapter` = "human"): tokenised by the engine, with the
    base model's log-probabilities.
    """

    id: str
    adapter: str
    variant: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    blocked: bool
    may_be_positive: bool
    """False where the shown text or the prompt differed from what was sampled."""
    total: float | None = None
    """The ensemble's value, for reward-labelled objectives."""


PairSource = Literal["choice", "ranking", "correction", "thumbs", "regenerate", "safety", "ai"]


class Pair(Reply):
    """chosen ≻ rejected, both candidate ids of the group."""

    chosen: str
    rejected: str
    source: PairSource
    weight: float
    annotator: str


class Unpaired(Reply):
    """A desirable or undesirable answer, from a thumb without a counterpart."""

    candidate: str
    desirable: bool
    weight: float
    annotator: str


class TrainingGroup(Reply):
    """One prompt, its candidates, and what people said: the record that every objective learns from."""

    id: str
    alias: str
    generation: int
    prompt_token_ids: list[int]
    images: list[str]
    """sha256 of each image, in prompt order; bytes at `/v1/media/{sha256}`."""
    base_digest: str
    on_policy_sampling: bool
    """Whether the logged log-probabilities are those of the distribution that was sampled."""
    candidates: list[TrainingCandidate]
    pairs: list[Pair] = []
    unpaired: list[Unpaired] = []


class FeedEntry(Reply):
    """One change. `group` is the group's present state; None where nothing may be learned from it any more."""

    seq: int
    group_id: str
    revision: int
    kind: Literal["signal", "override", "erase", "quarantine", "expire"]
    group: TrainingGroup | None = None


class FeedPage(Reply):
    entries: list[FeedEntry]
    next: int
    """`after` of the next call."""
    head: int
    """Seq of the newest entry of all; `next < head`: there is more."""


class LeaseRequest(Wire):
    alias: Id
    owner: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    ttl_s: float = Field(60.0, ge=1, le=3600)


class LeaseReply(Reply):
    """The right to train an alias. `token` grows with each new holder and fences off the old one."""

    alias: str
    token: int
    expires_at: float
    active: str
    """Adapter (or "base") that a round starts from."""
    generation: int
    head: int
    """Newest feed entry when the lease was given."""


class HeartbeatRequest(Wire):
    alias: Id
    token: int
    phase: Annotated[str, StringConstraints(max_length=64)] = ""
    metrics: Annotated[dict[Label, float], Field(max_length=64)] = {}
    """Gauges of the learning loop (loss, kl, ...)."""


class HeartbeatReply(Reply):
    expires_at: float


class RoundReport(Wire):
    """What became of one round: kept as a row, shown to operators."""

    alias: Id
    token: int
    outcome: Literal["uploaded", "discarded", "skipped"]
    adapter: Id | None = None
    reason: Comment = ""
    detail: dict[str, Any] = {}

    @field_validator("detail")
    @classmethod
    def _detail_is_bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value)) > 256 * 1024:
            raise ValueError("detail is larger than 256 KiB")
        return value


class TrainingConfig(Reply):
    """The alias's learner settings, and the facts about the base model that a learner must match."""

    alias: str
    base_model: str
    base_digest: str
    max_lora_rank: int
    lora_modules: list[str]
    learner: dict[str, Any]


# --- adapters ---------------------------------------------------------------------------------------------


class AdapterFile(Wire):
    name: Literal["adapter_config.json", "adapter_model.safetensors"]
    size_bytes: int = Field(ge=1, le=4 * 1024**3)
    sha256: Sha256


class Fingerprint(Wire):
    """What the learner computed for one stored answer: the server's probe must find the same."""

    group_id: Id
    candidate_id: Id
    logprob: float
    """Sum over the candidate's text tokens under the new adapter."""
    base_logprob: float
    """The same under the base model."""


class AdapterManifest(Wire):
    """Where an adapter comes from. Written by whoever uploads it, kept beside the weights for ever."""

    alias: Id
    base_digest: Sha256
    parent: Id = BASE
    lease_token: int | None = None
    """The learner's fencing token; uploads by an operator have none."""
    ephemeral: bool = False
    objective: dict[str, Any] = {}
    feed_after: int = Field(0, ge=0)
    feed_upto: int = Field(0, ge=0)
    sources: Annotated[dict[Label, int], Field(max_length=64)] = {}
    """Examples used, by source."""
    fingerprint: Annotated[list[Fingerprint], Field(max_length=64)] = []
    files: Annotated[list[AdapterFile], Field(min_length=2, max_length=2)]


class UploadReply(Reply):
    upload: str
    missing: list[str]


AdapterState = Literal[
    "staged", "verified", "gated", "canary", "active", "retired", "rejected", "rolled_back", "quarantined", "ephemeral"
]


class AdapterReply(Reply):
    id: str
    alias: str
    state: AdapterState
    parent: str
    created_at: float
    updated_at: float
    manifest: dict[str, Any] | None = None


class AdapterList(Reply):
    object: Literal["list"] = "list"
    data: list[AdapterReply]


class CheckReply(Reply):
    """One check of the gate or the probe: an interval against a margin."""

    name: str
    outcome: Literal["passed", "failed", "inconclusive"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    count: int = 0
    detail: str = ""


class AdapterReportReply(Reply):
    adapter: str
    reports: list[dict[str, Any]]


class LineageReply(Reply):
    adapter: str
    ancestors: list[str]
    descendants: list[str]


class MoveRequest(Wire):
    """An operator's move. `expect_generation`: refuse (412) unless routing still stands there."""

    expect_generation: int | None = Field(None, ge=0)
    share: float | None = Field(None, gt=0, le=1)
    """Canary only."""
    force: bool = False
    """Bring a rejected adapter to canary all the same; audited."""
    reason: Comment = ""


class RollbackRequest(Wire):
    alias: Id | None = None
    expect_generation: int | None = Field(None, ge=0)
    reason: Comment = ""


class RoutingReply(Reply):
    """Who serves an alias. `active` and `previous` are adapter ids or "base"."""

    alias: str
    active: str
    previous: str | None
    canary: str | None
    canary_share: float
    generation: int
    updated_at: float


class RoutingList(Reply):
    object: Literal["list"] = "list"
    data: list[RoutingReply]


class AuditEntry(Reply):
    id: int
    at: float
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditList(Reply):
    object: Literal["list"] = "list"
    data: list[AuditEntry]


class Health(Reply):
    status: Literal["ok", "unavailable"]
    detail: dict[str, str] = {}


Alignment.model_rebuild()
ChatReply.model_rebuild()
ChatChunk.model_rebuild()


# --- the base model's identity ----------------------------------------------------------------------------

MODEL_FILE_SUFFIXES = frozenset({".json", ".jinja", ".safetensors", ".txt", ".model"})


def directory_digest(directory: Path) -> str:
    """Digest of a model directory: sha256 over the lines "name sha256" of its model files, sorted by name.

    Server and learner compute it each for itself and must find the same before anything is trained.
    """
    lines = []
    for file in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if file.suffix in MODEL_FILE_SUFFIXES and file.is_file():
            with file.open("rb") as content:
                lines.append(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()

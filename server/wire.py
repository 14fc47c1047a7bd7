"""The models of the HTTP API: what goes over the wire, and nothing else. Imports nothing heavy.

Field names are OpenAI's where OpenAI has them (https://platform.openai.com/docs/api-reference/chat). Unknown
fields are refused at any depth. Times are UTC seconds since the epoch; log-probabilities are natural.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("invalid_encoding", "text cannot hold the character NUL")
    return text


NoNul = AfterValidator(_without_nul)
"""For texts that people write: PostgreSQL keeps no NUL, and nothing good comes of one."""

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=128), NoNul]
Text = Annotated[str, StringConstraints(max_length=200_000), NoNul]
Comment = Annotated[str, StringConstraints(max_length=4_000), NoNul]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64), NoNul]
Annotator = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_without_nul)]
"""Whose opinion: the hash of a user, or a name that the server made."""

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


def _rating(value: Any) -> Any:
    """One message in place of one for each alternative."""
    if isinstance(value, str) and value in {"up", "down"}:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1:
        return float(value)
    raise ValueError('a rating is "up", "down", or a number from -1 to 1')


class TensorZeroFeedback(Wire):
    """One person's opinion in TensorZero's words (https://www.tensorzero.com/docs/gateway/api-reference/feedback).

    `comment` is a comment and `demonstration` a correction. Every other metric is a rating: true is up, false is down,
    a number is a grade. Its name becomes a label, as do the tags (`key=value`).
    """

    inference_id: Id
    metric_name: Label
    value: bool | float | str
    tags: Annotated[dict[Label, str], Field(max_length=15)] = {}
    user: UserName | None = None
    """TensorZero has no name for it."""
    episode_id: None = None
    dryrun: Literal[False] | None = None

    @field_validator("value", mode="plain")
    @classmethod
    def _fits_the_metric(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("metric_name")
        if name in {"comment", "demonstration"}:
            if not isinstance(value, str):
                raise ValueError(f"{name} takes a text")
        elif not isinstance(value, bool | int | float) or not -1 <= value <= 1:
            raise ValueError("a metric takes true, false, or a grade from -1 to 1")
        return value

    def translated(self) -> dict[str, Any]:
        """The same in the field names of `FeedbackRequest`."""
        said: dict[str, Any] = {"completion_id": self.inference_id, "user": self.user}
        labels = [f"{name}={value}" for name, value in self.tags.items()]
        match self.metric_name:
            case "comment":
                said["comment"] = self.value
            case "demonstration":
                said["correction"] = self.value
            case name:
                said["rating"] = ("down", "up")[self.value] if isinstance(self.value, bool) else self.value
                labels.insert(0, name)
        return {**said, "labels": labels}


class FeedbackRequest(Wire):
    """One person's opinion of one answer. TensorZero's field names are understood as well (`TensorZeroFeedback`)."""

    completion_id: Id
    candidate_id: Id | None = None
    """Which shown candidate; absent: the first choice."""
    rating: Annotated[Literal["up", "down"] | float, PlainValidator(_rating)] | None = None
    user: UserName | None = None
    comment: Comment | None = None
    correction: Annotated[str, StringConstraints(min_length=1, max_length=20_000), NoNul] | None = None
    labels: Annotated[list[Label], Field(max_length=16)] = []

    @model_validator(mode="before")
    @classmethod
    def _in_either_vocabulary(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not {"inference_id", "metric_name", "value", "tags"} & data.keys():
            return data
        if (cls.model_fields.keys() - {"user"}) & data.keys():
            raise ValueError("use Plumbline's field names or TensorZero's, not both in one request")
        return TensorZeroFeedback.model_validate(data).translated()

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
    """The stored signal. `trainable` is False when it can never become training data: a tie, a comment or a label, an
    answer that was broken off, that is held out, or whose tenant may not train the alias.
    """

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


# --- exchange ---------------------------------------------------------------------------------------------


class ImportPair(Wire):
    """One candidate is better than another; both by their place in the group's list."""

    kind: Literal["pair"]
    chosen: int = Field(ge=0)
    rejected: int = Field(ge=0)
    source: PairSource = "choice"
    weight: float = Field(1.0, gt=0, le=100)
    user: UserName | None = None
    """Whose opinion; absent: the group's user, and without one the import itself."""


class ImportRating(Wire):
    """One candidate is good (up to 1) or bad (down to -1)."""

    kind: Literal["rating"]
    candidate: int = Field(ge=0)
    rating: float = Field(ge=-1, le=1)
    comment: Comment | None = None
    labels: Annotated[list[Label], Field(max_length=16)] = []
    user: UserName | None = None


class ImportGroup(Wire):
    """One prompt, its answers, and what was said about them. Images go in the messages, as `data:` URLs."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    candidates: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=200_000), NoNul]],
        Field(min_length=1, max_length=64),
    ]
    opinions: Annotated[
        list[Annotated[ImportPair | ImportRating, Field(discriminator="kind")]], Field(min_length=1, max_length=4096)
    ]
    user: UserName | None = None
    """Who asked: erasing that user's data erases the group."""

    @model_validator(mode="after")
    def _opinions_are_about_candidates(self) -> Self:
        for opinion in self.opinions:
            named = [opinion.candidate] if isinstance(opinion, ImportRating) else [opinion.chosen, opinion.rejected]
            if max(named) >= len(self.candidates):
                raise ValueError("an opinion names a candidate that is not there")
            if len({self.candidates[one] for one in named}) != len(named):
                raise ValueError("chosen and rejected are the same answer")
        return self


class ImportRequest(Wire):
    """Groups from elsewhere, to be learned from like the alias's own. Sending one twice keeps it once."""

    alias: Id
    source: Label
    """Where they come from; the annotator of opinions that name nobody."""
    groups: Annotated[list[ImportGroup], Field(min_length=1, max_length=256)]


class ImportRefusal(Reply):
    """A group that cannot be kept, by its place in the request; the others were."""

    index: int
    message: str
    code: str


class ImportReply(Reply):
    """What became of the groups: `new + changed + known + gone + len(refused)` of them were sent."""

    new: int
    changed: int
    """Kept before, with opinions that are new."""
    known: int
    gone: int
    """Kept once, then erased or expired: they stay away."""
    holdout: int
    """Of those new, kept for the gate and never trained on."""
    refused: list[ImportRefusal] = []


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
    groups: Annotated[list[Id], Field(max_length=100_000)] = []
    """Every group that a step of the training used: so that erasing a user can tell which adapters learned of them."""
    annotators: Annotated[list[Annotator], Field(max_length=100_000)] = []
    """Everybody whose opinion a step used."""
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


class StateProblem(Reply):
    """One finding: which check, what is wrong, what to do."""

    check: str
    what: str
    remedy: str


class StateReply(Reply):
    """What is wrong with the whole state; nothing, where the list is empty."""

    object: Literal["list"] = "list"
    data: list[StateProblem]


class ErasureReply(Reply):
    """What was erased of one user, and which adapters had learned from it."""

    groups: int
    """Questions with their answers, which were this user's."""
    signals: int
    """Opinions of this user, and opinions about this user's answers."""
    images: int
    """Images that nothing else shows."""
    adapters: list[str]
    """Adapters trained on any of it, and all that grew from them, oldest first."""
    undeclared: list[str]
    """Adapters whose upload did not say what they learned from, and all that grew from them: nobody can tell."""


class QuarantineRequest(Wire):
    """Which signals to set aside, named in one way: by annotator (or the user as the app names them), by the adapter
    that answered, or one by one.
    """

    annotator: Annotator | None = None
    user: UserName | None = None
    tenant: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """The user's; absent: the caller's own."""
    adapter: Id | None = None
    signal_ids: Annotated[list[Id], Field(min_length=1, max_length=10_000)] | None = None
    undo: bool = False
    """Take them back in."""
    reason: Comment = ""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [self.annotator, self.user, self.adapter, self.signal_ids]
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give one of annotator, user, adapter and signal_ids")
        return self


class QuarantineReply(Reply):
    changed: int
    """Signals that were set aside or taken back in."""


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

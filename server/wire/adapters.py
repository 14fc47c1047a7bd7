"""Adapters: upload, state, reports, and the moves that route traffic to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.wire.base import BASE, Annotator, Comment, Id, JsonObject, Label, Number, Position, Reply, Sha256, Wire


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
    lease_token: Number | None = None
    """The learner's fencing token; uploads by an operator have none."""
    ephemeral: bool = False
    objective: JsonObject = {}
    feed_after: Position = 0
    feed_upto: Position = 0
    sources: Annotated[dict[Label, Position], Field(max_length=64)] = {}
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
    received: dict[str, int] = {}
    """Bytes that have arrived, by file. A piece may begin at any of them."""


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
    progress: str | None = None
    """How far its gate is, in words, while it runs on this server."""
    manifest: dict[str, Any] | None = None


class DeletedReply(Reply):
    id: str
    deleted: bool = True


class AdapterList(Reply):
    object: Literal["list"] = "list"
    data: list[AdapterReply]


class CheckReply(Reply):
    """One check of the gate or the probe: an interval against a margin. `detail` says why one was skipped."""

    name: str
    outcome: Literal["passed", "failed", "inconclusive", "skipped"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    at_least: float | None = None
    """Smallest value within the margin."""
    at_most: float | None = None
    """Largest value within the margin."""
    unchanged: float | None = None
    """The value of an adapter that changes nothing."""
    count: int = 0
    detail: str = ""


class IntervalReply(Reply):
    """An estimate and its 95% bounds; None where so few say nothing."""

    value: float
    low: float | None
    high: float | None
    count: int


class ShadowReply(Reply):
    """What the adapter's unseen answers say, beside the active adapter's to the same questions."""

    active: str
    answers: int
    users: int
    reward_difference: IntervalReply | None
    """Shadow minus active, each user once; None where no scorer but the policy's own said anything."""
    blocked_share: float | None
    active_blocked_share: float | None
    blocked_difference: IntervalReply | None
    failed_share: IntervalReply | None
    mean_duration_s: float | None
    active_mean_duration_s: float | None


class AdapterReportReply(Reply):
    adapter: str
    reports: list[dict[str, Any]]
    evidence: dict[str, Any] | None = None
    """What came in so far, while the adapter is the canary."""
    shadow: ShadowReply | None = None


class LineageReply(Reply):
    adapter: str
    ancestors: list[str]
    descendants: list[str]


class MoveRequest(Wire):
    """An operator's move. `expect_generation`: refuse (412) unless routing still stands there."""

    expect_generation: Number | None = None
    share: float | None = Field(None, ge=0, le=1)
    """Canary and shadow only. Of a shadow 0 ends it."""
    force: bool = False
    """Bring a rejected adapter to canary all the same; audited."""
    reason: Comment = ""


class RollbackRequest(Wire):
    alias: Id | None = None
    expect_generation: Number | None = None
    reason: Comment = ""


class RoutingReply(Reply):
    """Who serves an alias. `active` and `previous` are adapter ids or "base"."""

    alias: str
    active: str
    previous: str | None
    canary: str | None
    canary_share: float
    shadow: str | None = None
    shadow_share: float = 0.0
    generation: int
    updated_at: float
    waiting: str | None = None
    """Why the server does not start or promote a canary by itself though it could; with `GET /v1/routing` only."""
    waiting_until: float | None = None
    """Where time alone decides."""


class MoveReply(RoutingReply):
    """Routing as it stands after an operator's move."""

    signals_set_aside: int | None = None
    """Quarantine only: signals behind the adapter, which the next round does not learn again."""


class RoutingList(Reply):
    object: Literal["list"] = "list"
    data: list[RoutingReply]

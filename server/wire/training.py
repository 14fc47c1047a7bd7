"""What a learner reads and reports: the feed, its training groups, the lease, rounds."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from server.wire.base import Comment, Id, JsonObject, Label, Number, Reply, Wire


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
    scores: dict[str, float] = {}
    """What each scorer gave, by name and in its own units, for objectives that tell rewards apart."""
    shared_tokens: int = 0
    """So many first tokens are an earlier candidate's too: a stepwise answer branched off there."""

    @field_validator("logprobs", mode="before")
    @classmethod
    def _null_is_nan(cls, values: Any) -> Any:
        """JSON has null in place of what is not finite; it stays recognisable as that."""
        if isinstance(values, list) and None in values:
            return [math.nan if value is None else value for value in values]
        return values


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
    """Whether each candidate is a sample of the policy, and the logged log-probabilities are those it was drawn by.
    Never of a stepwise answer: what came after a sentence was drawn behind one that had been chosen."""
    candidates: list[TrainingCandidate]
    pairs: list[Pair] = []
    unpaired: list[Unpaired] = []
    rewarded: bool = False
    """Whether the candidates' totals and log-probabilities may label a policy gradient: all that was sampled is here or
    may not be learned from, by the distribution that was logged, and no scorer failed."""


class FeedEntry(Reply):
    """One change. `group` is the group's present state; None where nothing may be learned from it any more.

    `kind` says why: something was said; an opinion took the place of that person's earlier one, or was taken back
    (`override`); a person's data were erased; signals were set aside or taken in again; the group expired.
    """

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
    token: Number
    phase: Annotated[str, StringConstraints(max_length=64)] = ""
    metrics: Annotated[dict[Label, float], Field(max_length=64)] = {}
    """Gauges of the learning loop (loss, kl, ...)."""


class HeartbeatReply(Reply):
    expires_at: float


class RoundReport(Wire):
    """What became of one round: kept as a row, shown to operators."""

    alias: Id
    token: Number
    outcome: Literal["uploaded", "discarded", "skipped"]
    round: Id | None = None
    """The learner's own name of the round: one that is told twice counts once. Without it every report counts."""
    adapter: Id | None = None
    reason: Comment = ""
    detail: JsonObject = {}

    @field_validator("detail")
    @classmethod
    def _detail_is_bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value)) > 256 * 1024:
            raise ValueError("detail is larger than 256 KiB")
        return value


class RoundSummary(Reply):
    """A round in the list of them."""

    id: int
    """Its number on the server, over all aliases."""
    alias: str
    outcome: Literal["uploaded", "discarded", "skipped"]
    reason: str
    adapter: str | None
    parent: str | None = None
    """The adapter, or `base`, that it started from."""
    signals: int | None = None
    """Human signals that it answers to."""
    groups: int | None = None
    seconds: float | None = None
    created_at: float


class RoundList(Reply):
    object: Literal["list"] = "list"
    data: list[RoundSummary]


class RoundReply(RoundSummary):
    """One round. `detail` is what its learner told: curve, standing before and after, what was skipped and why."""

    detail: dict[str, Any]


Unanswered = Literal["not_found", "gone", "set_aside", "constrained", "refused", "too_long", "busy", "engine", "safety"]
"""Why a prompt was not asked again:

- `not_found`: there is no such group of this alias, it may not train it, or it is held out;
- `gone`: erased or expired, or one of its images is;
- `set_aside`: nothing is learned from it now;
- `constrained`: the request held its answer to a form, so no answer to it is the policy's own;
- `refused`: the alias's rules refuse the request as they stand now;
- `too_long`: for the model's context;
- `busy`: there was too much to do for apps;
- `engine`, `safety`: no engine, or a guard of requests, did not answer.
"""
MAX_ROLLOUTS = 64
"""Prompts of one call."""


class RolloutRequest(Wire):
    """Ask for new answers to prompts that the feed has told of."""

    alias: Id
    token: Number
    """Of the lease."""
    adapter: Id
    """Who answers: "base", or an adapter of the alias that can be asked for by its id, an ephemeral one too."""
    group_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_ROLLOUTS)]
    candidates: int = Field(8, ge=2, le=1024)
    """Answers to each; at most the server's `chat.max_best_of`."""
    seed: int | None = Field(None, ge=0, le=2**62)

    @field_validator("group_ids")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("a group is named twice")
        return value


class Rollout(Reply):
    """What became of one prompt: `group`, or why there is none."""

    group_id: str
    """As it was asked for."""
    group: TrainingGroup | None = None
    """The answers with their rewards. Its id is new and names nothing that is kept."""
    reason: Unanswered | None = None


class RolloutReply(Reply):
    adapter: str
    data: list[Rollout]
    """In the order asked for."""


class Retraining(Reply):
    """An operator's order to learn again what was learned behind `feed_after`, without what was erased since."""

    number: int
    """Grows with each order: a learner obeys each once."""
    feed_after: int


class TrainingConfig(Reply):
    """The alias's learner settings, and the facts about the base model that a learner must match."""

    alias: str
    base_model: str
    base_digest: str
    max_lora_rank: int
    lora_modules: list[str]
    learner: dict[str, Any]
    retraining: Retraining | None = None
    """The newest order."""

"""Rows as frozen values. What the pipeline writes and what everybody else reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reward.policy import FAILED
from reward.types import REJECTED, STEP, Action
from server.wire.base import BASE

FORBIDDING = frozenset(action for action in Action if action.forbids)
HUMAN = "human"
"""Adapter name of a correction typed by a person."""
POLICY = "policy"
"""Adapter name of the configured text that is shown when every candidate was blocked."""

IMPORTED = "import:"
"""Before a user's hash: the annotator of what that user said elsewhere. It counts apart from what is said here."""


class GroupState(StrEnum):
    COMPLETED = "completed"
    ABORTED = "aborted"
    FAILED = "failed"
    ERASED = "erased"
    EXPIRED = "expired"


class SignalKind(StrEnum):
    RATING = "rating"
    CHOICE = "choice"
    RANKING = "ranking"
    TIE = "tie"
    CORRECTION = "correction"
    COMMENT = "comment"
    REGENERATE = "regenerate"
    """The answer given again was liked: told of the earlier answer's group."""


class FeedKind(StrEnum):
    """Why the feed tells of a group."""

    SIGNAL = "signal"
    """Something new was said of it, or it teaches by itself."""
    OVERRIDE = "override"
    """Somebody's opinion took the place of an earlier one, or took it back."""
    ERASE = "erase"
    QUARANTINE = "quarantine"
    EXPIRE = "expire"


class AdapterState(StrEnum):
    """Where an adapter stands; `server.adapters.states` holds the transitions."""

    STAGED = "staged"
    VERIFIED = "verified"
    GATED = "gated"
    CANARY = "canary"
    ACTIVE = "active"
    RETIRED = "retired"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    QUARANTINED = "quarantined"
    EPHEMERAL = "ephemeral"


@dataclass(frozen=True, slots=True)
class MediaRecord:
    sha256: str
    mime: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    id: str
    position: int
    adapter: str
    variant: str
    text: str
    shown_text: str | None
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    is_shown: bool
    is_blocked: bool
    probability: float
    total: float | None
    scores: dict[str, Any] = field(default_factory=dict)
    verdicts: dict[str, Any] = field(default_factory=dict)
    is_chosen: bool = False
    """The reply's first choice. It need not be the most probable one of those shown."""
    shared_tokens: int = 0
    """So many first tokens are an earlier candidate's too: it branched off there, and they were generated once."""

    @property
    def is_whole(self) -> bool:
        """False: it was given up half-way, or paused behind a sentence. No opinion is about it."""
        return self.finish_reason not in {REJECTED, STEP}

    @property
    def is_comparable(self) -> bool:
        """Whether it tells something beside its siblings, those that branched off where it did."""
        return self.finish_reason != REJECTED

    @property
    def was_found_unsafe(self) -> bool:
        """Whether a rule forbids it for what it says. A rule that failed, or a guard that was down, says nothing."""
        reasons = [reason for _, action, reason in self.verdicts.values() if action in FORBIDDING]
        return self.is_blocked and not (reasons and all(reason == FAILED for reason in reasons))

    @property
    def may_be_positive(self) -> bool:
        """Whether training may move towards it: clean, not given up, shown as sampled, on the user's own prompt."""
        is_clean = not self.is_blocked and self.is_comparable
        return is_clean and self.shown_text is None and not self.variant and bool(self.token_ids)


@dataclass(frozen=True, slots=True)
class GroupRecord:
    id: str
    tenant: str
    alias: str
    state: GroupState
    created_at: float
    generation: int
    adapter: str
    is_canary: bool
    user_hash: str | None
    prompt_digest: str
    is_holdout: bool
    regenerate_of: str | None
    prompt: list[dict[str, Any]]
    sampling: dict[str, Any]
    on_policy_sampling: bool
    prompt_token_ids: tuple[int, ...]
    base_digest: str
    engine_version: str
    selection: str
    degraded: tuple[str, ...]
    candidates: tuple[CandidateRecord, ...]
    media: tuple[MediaRecord, ...]
    reward: float | None = None
    """What the ensemble finds of the answer shown first, without the policy's own implicit reward."""
    duration_s: float | None = None
    """From admission to the choice, or to the failure."""
    revision: int = 0

    def candidate(self, candidate_id: str) -> CandidateRecord | None:
        return next((one for one in self.candidates if one.id == candidate_id), None)

    @property
    def shown(self) -> tuple[CandidateRecord, ...]:
        return tuple(one for one in self.candidates if one.is_shown)


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """One opinion. `slot` names what it is an opinion of: a later one of the same annotator replaces it."""

    id: str
    group_id: str
    kind: SignalKind
    slot: str
    annotator: str
    created_at: float
    payload: dict[str, Any]
    is_live: bool = True
    is_quarantined: bool = False


@dataclass(frozen=True, slots=True)
class FeedRecord:
    seq: int
    alias: str
    group_id: str
    revision: int
    kind: FeedKind


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    id: str
    number: int
    alias: str
    state: AdapterState
    parent: str
    manifest: dict[str, Any]
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Report:
    kind: str
    outcome: str
    body: dict[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True)
class Routing:
    """Who serves an alias. Adapter ids, or "base"."""

    alias: str
    active: str = BASE
    previous: str | None = None
    canary: str | None = None
    canary_share: float = 0.0
    shadow: str | None = None
    shadow_share: float = 0.0
    generation: int = 0
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ShadowRecord:
    """What a shadow's answer to a request was worth, beside the answer that was shown."""

    group_id: str
    adapter: str
    is_blocked: bool
    """At least one of its candidates was."""
    has_failed: bool
    reward: float | None
    active_reward: float | None
    duration_s: float
    created_at: float


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where the store was read: the last seq of groups and of signals."""

    group: int
    signal: int


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A canary's run as the store tells of it: what counts came after these seqs, at this generation or a later one."""

    alias: str
    generation: int
    active: str
    canary: str
    share: float
    started_at: float
    after_group: int
    after_signal: int

    @property
    def beginning(self) -> Position:
        return Position(self.after_group, self.after_signal)


@dataclass(frozen=True, slots=True)
class Lease:
    alias: str
    owner: str
    token: int
    ttl_s: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What became of a training round."""

    id: int
    alias: str
    name: str | None
    """The learner's own name of it."""
    outcome: str
    adapter: str | None
    body: dict[str, Any]
    """`reason`, and whatever the learner told beside it."""
    created_at: float


@dataclass(frozen=True, slots=True)
class Answered:
    """One finished request."""

    unit: str
    """The user's hash; where no user was named, the group's id: then each request stands for itself."""
    is_canary: bool
    at: float
    """Seconds since the epoch."""
    is_blocked: bool
    """A safety rule blocked one of its candidates."""
    has_failed: bool
    """The engine failed, or base had to answer for the canary."""
    reward: float | None
    """The ensemble's value without any implicit reward; None where nothing was scored."""
    duration_s: float | None
    """None where it is not known."""


@dataclass(frozen=True, slots=True)
class Rated:
    """One live opinion on a served answer."""

    unit: str
    is_canary: bool
    at: float
    rating: float
    """-1 to 1."""

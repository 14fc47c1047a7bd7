"""What operators see and do beside moving adapters: audit, state, erasure, setting aside, health."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from server.wire.base import Annotator, Comment, Id, Reply, UserName, Wire


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


class Remedy(Reply):
    """One thing that can be done about adapters that learned from an erased user, and exactly what it does."""

    action: Literal["roll_back", "retrain"]
    active: str
    """Serves the alias afterwards: the newest ancestor that did not learn from it, or base."""
    adapters: list[str]
    """Never served again, oldest first."""
    feed_after: int | None = None
    """`retrain`: the learner reads the feed again behind this, and its next round starts from `active`."""
    what: str
    """The same in words."""


class AliasRemedies(Reply):
    alias: str
    remedies: list[Remedy]
    taken: Literal["roll_back", "retrain"] | None = None
    """Which was asked for, and is done."""


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
    remedies: list[AliasRemedies] = []
    """What can be done about the adapters that are not taken out yet. Asking for a remedy later is the same call."""


class QuarantineRequest(Wire):
    """Which signals to set aside, named in one way: by annotator (or the user as the app names them, then with what was
    imported of them), by the adapter that learned from them and its sound ancestors did not, or one by one.
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

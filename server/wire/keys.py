"""API keys as operators make, list and revoke them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from server.wire.base import NoNul, Reply, Wire

RoleName = Literal["app", "learner", "operator"]
Budget = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""An amount a minute; 0: none is set."""


class KeyRequest(Wire):
    """A key to be made. A budget that is absent is the role's (`[limits]`)."""

    role: RoleName
    name: Annotated[str, StringConstraints(max_length=128), NoNul] = ""
    """What it is for, shown in the list."""
    tenant: Annotated[str, StringConstraints(min_length=1, max_length=128), NoNul] | None = None
    """Whose; absent: the caller's own."""
    expires_in_s: float | None = Field(None, gt=0, le=100 * 365 * 86_400.0)
    """Seconds from now after which it is good no more; absent: until it is revoked."""
    requests_per_minute: Budget | None = None
    candidates_per_minute: Budget | None = None
    tokens_per_minute: Budget | None = None
    """Tokens generated, of all candidates."""


class KeyReply(Reply):
    """A key without its secret. Times are UTC seconds since the epoch."""

    id: str
    name: str
    tenant: str
    role: RoleName
    created_by: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None
    """Within an hour."""
    requests_per_minute: int | None = None
    candidates_per_minute: int | None = None
    tokens_per_minute: int | None = None


class NewKeyReply(KeyReply):
    key: str
    """The secret itself, shown this once."""


class KeyList(Reply):
    object: Literal["list"] = "list"
    data: list[KeyReply]
    has_more: bool = False
    """There are further ones: ask again with `after`, the last id."""

"""Where the state lives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from server.config.base import Seconds, Section


class StoreConfig(Section):
    """Where the state lives."""

    directory: Path = Path("state")
    """Holds the database, `media/`, `adapters/`, `uploads/` and the token secret."""
    url: SecretStr = SecretStr("")
    """PostgreSQL, as `postgresql://user:password@host:5432/name`, for several servers. Empty: SQLite in `directory`."""
    routing_lease_s: Seconds = 1.0
    """With several servers (`url`): a move made on one is followed by the others within this time; a server that cannot
    read routing for so long refuses chat with 503."""
    idempotency_ttl_s: Seconds = 24 * 3600.0
    """How long the reply to an Idempotency-Key is kept at least."""
    blobs: str = Field("", pattern=r"^$|^[a-z][a-z0-9+.-]*://[^\s?#@]+$")
    """Object store for images and adapter files, for several servers: a URL that fsspec knows, as `s3://bucket/prefix`.
    Credentials come from the environment or fsspec's own configuration. Empty: `directory`."""
    retention_days: float = Field(0, ge=0)
    """Groups older than this expire: what was asked, answered and said is removed. 0: kept for ever."""
    tenant_retention_days: dict[str, Annotated[float, Field(ge=0)]] = {}
    """The same for single tenants, in place of `retention_days`."""
    min_free_bytes: int = Field(64 * 1024 * 1024, ge=0)
    """With less free disk than this, writes are refused with 503."""
    read_connections: int = Field(4, ge=1)
    """Read-only database connections."""

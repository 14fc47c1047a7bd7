"""The tables. Ids are text and time-ordered; times are UTC seconds since the epoch; token ids and
log-probabilities are little-endian uint32 and float32 arrays. Where a table is followed (`server.store.evidence`) its
`seq` grows with each row: writing transactions are one after the other, so it tells the order of the commits.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_SEQ = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts in INTEGER PRIMARY KEY alone, which is the row's own number there and costs no index."""

groups = Table(
    "groups",
    metadata,
    Column("seq", _SEQ, Identity(), primary_key=True),  # never one that was given before
    Column("id", Text, nullable=False, unique=True),  # the completion id
    Column("tenant", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("state", Text, nullable=False),  # completed | aborted | failed | erased | expired
    Column("created_at", Float, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("is_canary", Boolean, nullable=False),
    Column("user_hash", Text),
    Column("prompt_digest", Text, nullable=False),
    Column("is_holdout", Boolean, nullable=False),
    Column("regenerate_of", Text),
    Column("prompt", JSON, nullable=False),  # messages; images as {"image": sha256, "mime": ...}
    Column("sampling", JSON, nullable=False),
    Column("on_policy_sampling", Boolean, nullable=False),
    Column("prompt_token_ids", LargeBinary, nullable=False),
    Column("base_digest", Text, nullable=False),
    Column("engine_version", Text, nullable=False),
    Column("selection", Text, nullable=False),
    Column("degraded", JSON, nullable=False),  # names of scorers that failed
    Column("reward", Float),  # of the answer shown first, as `server.pipeline.judges` says; no policy judges itself
    Column("duration_s", Float),  # from admission to the choice, or to the failure; none for what was imported
    Column("revision", Integer, nullable=False),  # grows with each change that the feed tells of
    Index(None, "alias", "created_at"),
    Index(None, "tenant", "user_hash"),
    Index(None, "tenant", "state", "created_at"),  # what retention looks for
    Index(  # what the gate looks for; each database recognises its own way of writing a truth
        "ix_groups_holdout",
        "alias",
        "created_at",
        sqlite_where=text("is_holdout = 1"),
        postgresql_where=text("is_holdout"),
    ),
    sqlite_autoincrement=True,
)

candidates = Table(
    "candidates",
    metadata,
    Column("id", Text, primary_key=True),
    Column("group_id", Text, ForeignKey("groups.id"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("adapter", Text, nullable=False),  # "base", an adapter id, or "human" for a correction
    Column("variant", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("shown_text", Text),  # where it differs from `text`
    Column("token_ids", LargeBinary, nullable=False),
    Column("logprobs", LargeBinary, nullable=False),
    Column("finish_reason", Text, nullable=False),
    Column("is_shown", Boolean, nullable=False),
    Column("is_chosen", Boolean, nullable=False),  # the reply's first choice
    Column("is_blocked", Boolean, nullable=False),
    Column("probability", Float, nullable=False),  # of being selected
    Column("total", Float),  # the ensemble's value
    Column("shared_tokens", Integer, nullable=False),  # its first ones, which are an earlier candidate's
    Column("scores", JSON, nullable=False),  # {scorer: [version, value]}
    Column("verdicts", JSON, nullable=False),  # {rule: [version, action, reason]}
)

group_media = Table(
    "group_media",
    metadata,
    Column("group_id", Text, ForeignKey("groups.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sha256", Text, ForeignKey("media.sha256"), nullable=False, index=True),
)

media = Table(
    "media",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("mime", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
)

signals = Table(
    "signals",
    metadata,
    Column("seq", _SEQ, Identity(), primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("group_id", Text, ForeignKey("groups.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),  # rating | choice | ranking | tie | correction | comment | regenerate
    Column("slot", Text, nullable=False),  # one live signal for each annotator and slot
    Column("annotator", Text, nullable=False),  # hash of the user, or of the key where no user was named
    Column("created_at", Float, nullable=False),
    Column("is_live", Boolean, nullable=False),
    Column("is_quarantined", Boolean, nullable=False),
    Column("payload", JSON, nullable=False),
    Index(None, "annotator", "created_at"),
    # One live opinion of each annotator about each thing, whatever happens at the same time.
    Index(
        "uq_signals_live",
        "group_id",
        "annotator",
        "slot",
        unique=True,
        sqlite_where=text("is_live"),
        postgresql_where=text("is_live"),
    ),
    sqlite_autoincrement=True,
)

feed = Table(
    "feed",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3 … of the alias
    Column("group_id", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

feed_heads = Table(
    "feed_heads",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),  # of the newest entry: a counter, so that no entry is ever counted
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("annotator", Text, nullable=False, index=True),  # erased with the person
    Column("request_hash", Text, nullable=False),
    Column("reply", JSON, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),  # what was given last
)

adapters = Table(
    "adapters",
    metadata,
    Column("id", Text, primary_key=True),
    Column("number", Integer, nullable=False),  # the sequence part of the id
    Column("alias", Text, nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("parent", Text, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("number"),
)

adapter_sources = Table(
    "adapter_sources",
    metadata,
    Column("adapter", Text, ForeignKey("adapters.id"), primary_key=True),
    Column("source", Text, primary_key=True, index=True),  # a group's id, or an annotator, that it learned from
)

reports = Table(
    "reports",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("subject", Text, nullable=False, index=True),  # an adapter id
    Column("kind", Text, nullable=False),  # integrity | probe | gate | canary
    Column("outcome", Text, nullable=False),
    Column("body", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

rounds = Table(
    "rounds",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("alias", Text, nullable=False),
    Column("name", Text),  # the learner's own, so that a round that is told twice is kept once
    Column("outcome", Text, nullable=False),  # uploaded | discarded | skipped
    Column("adapter", Text, index=True),
    Column("body", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("alias", "name"),
    Index(None, "alias", "id"),
    sqlite_autoincrement=True,
)

routing = Table(
    "routing",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("active", Text, nullable=False),
    Column("previous", Text),
    Column("canary", Text),
    Column("canary_share", Float, nullable=False),
    Column("shadow", Text),  # answers a share of the requests too, and nobody sees it
    Column("shadow_share", Float, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
)

trials = Table(  # the evidence of a canary's run: who is compared since when, and where it begins
    "trials",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("generation", Integer, primary_key=True),  # since which active, canary and share stand as they do
    Column("active", Text, nullable=False),
    Column("canary", Text, nullable=False),
    Column("share", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("after_group", BigInteger, nullable=False),  # the newest seq of groups and of signals before it
    Column("after_signal", BigInteger, nullable=False),
)

shadows = Table(  # what a shadow's answer to a request was worth; its text is not kept
    "shadows",
    metadata,
    Column("group_id", Text, ForeignKey("groups.id"), primary_key=True),
    Column("adapter", Text, primary_key=True),
    Column("is_blocked", Boolean, nullable=False),
    Column("has_failed", Boolean, nullable=False),
    Column("reward", Float),
    Column("active_reward", Float),  # of the answer that was shown
    Column("duration_s", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Index(None, "adapter", "created_at"),
)

leases = Table(
    "leases",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("token", Integer, nullable=False),  # grows with each new holder: the fencing token
    Column("ttl_s", Float, nullable=False),  # by which a sign of life extends it
    Column("expires_at", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False, index=True),
    Column("detail", JSON, nullable=False),
    Index(None, "actor", "at"),
    sqlite_autoincrement=True,
)

clock = Table(
    "clock",
    metadata,
    Column("name", Text, primary_key=True),  # who reads the time here
    Column("seen_at", Float, nullable=False),  # the latest time that was believed
    Column("doubted_at", Float),  # a time too far ahead of it, when it was first seen
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("role", Text, nullable=False),  # app | learner | operator
    Column("name", Text, nullable=False),
    Column("key_hash", Text, nullable=False, unique=True),
    Column("created_by", Text, nullable=False),  # the key that made it, or how it was made
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("last_used_at", Float),  # coarse: `server.keys`
    Column("requests_per_minute", Integer),  # budgets; null: the role's
    Column("candidates_per_minute", Integer),
    Column("tokens_per_minute", Integer),
)

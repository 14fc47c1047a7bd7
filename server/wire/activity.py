"""What operators see of an alias's last hours: answers, opinions, who agrees with whom, the learner."""

from __future__ import annotations

from server.wire.base import Reply


class ActivityBucket(Reply):
    """One stretch of time. What was said counts where the answer that it is about was given."""

    at: float
    """Its beginning, UTC seconds since the epoch."""
    answers: int
    failed: int
    """Of these, requests that got no whole answer: failed, or broken off."""
    reward: float | None = None
    """Mean of the answers' rewards; None where nothing but the policy itself judged."""
    signals: dict[str, int]
    """Opinions by kind; ratings as `up` and `down`."""


class AdapterActivity(Reply):
    """What came of one adapter's answers."""

    adapter: str
    answers: int
    reward: float | None = None
    up: int
    down: int


class ScorerAgreement(Reply):
    """How often a scorer, or the ensemble, puts the answer first that people preferred. Ties count half."""

    scorer: str
    compared: int
    """Pairs of answers that somebody compared and that it scored both."""
    share: float | None = None
    low: float | None = None
    """Wilson's interval, 95%, as if all pairs were independent."""
    high: float | None = None


class RuleAgreement(Reply):
    """What a rule did, and what people said of answers to which it applied and that were shown all the same."""

    rule: str
    judged: int
    """Candidates that it looked at."""
    applied: dict[str, int]
    """Of these, by the action that it asked for; what it let pass is not counted."""
    up: int
    down: int


class LearnerActivity(Reply):
    """Who holds the right to train, and what this server last heard from it."""

    owner: str
    lease_expires_at: float
    heartbeat_at: float | None = None
    values: dict[str, float] = {}
    """What it reported with its last signs of life (loss, progress, ...)."""


class ActivityReply(Reply):
    alias: str
    since: float
    """The beginning of the first bucket."""
    bucket_s: float
    is_whole: bool
    """False: there were more answers than are looked at; the oldest ones are left out."""
    buckets: list[ActivityBucket]
    adapters: list[AdapterActivity]
    """Those that answered, most answers first."""
    scorers: list[ScorerAgreement]
    """The ensemble, if there is one, is `ensemble`."""
    rules: list[RuleAgreement]
    feed_head: int
    """The newest entry of the training feed."""
    learner: LearnerActivity | None = None
    """None: nobody ever took the lease."""

"""Prometheus metrics: base units, bounded labels, an own registry, served on a private listener.

Label values come from the configuration and from closed lists only; whatever else arrives is `other`.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MOVE_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0)


class Metrics:
    """All metrics of the process. `aliases` and `routes` bound the label values."""

    def __init__(self, *, aliases: Iterable[str], version: str) -> None:
        self.registry = CollectorRegistry()
        self._aliases = frozenset(aliases)
        reg = self.registry
        Gauge("plumbline_build_info", "Constant 1, labelled by version.", ["version"], registry=reg).labels(
            version
        ).set(1)
        self.requests = Counter(
            "plumbline_requests_total", "HTTP requests by route and status.", ["route", "status"], registry=reg
        )
        self.request_seconds = Histogram(
            "plumbline_request_duration_seconds",
            "Time from the first byte of a request to the last of its reply.",
            ["route"],
            buckets=LATENCY_BUCKETS_S,
            registry=reg,
        )
        self.overhead_seconds = Histogram(
            "plumbline_overhead_seconds",
            "Chat time outside the engine and the scorers.",
            buckets=LATENCY_BUCKETS_S,
            registry=reg,
        )
        self.in_flight = Gauge("plumbline_requests_in_flight", "Chat requests inside or waiting.", registry=reg)
        self.image_fetches = Counter(
            "plumbline_image_fetches_total",
            "Images named by an address, by what became of them.",
            ["outcome"],  # fetched | abandoned | the error's code
            registry=reg,
        )
        self.images_waiting = Gauge(
            "plumbline_images_waiting", "Images being fetched or decoded, or waiting for it.", registry=reg
        )
        self.image_bytes = Gauge("plumbline_image_bytes_in_flight", "Bytes of images that requests hold.", registry=reg)
        self.candidates = Counter(
            "plumbline_candidates_total",
            "Candidates by what became of them.",
            ["alias", "outcome"],  # chosen | not_chosen | rejected | blocked
            registry=reg,
        )
        self.stepwise_dropped = Counter(
            "plumbline_stepwise_dropped_total",
            "Sentences of stepwise answers that were given up: the engine reads their text as other tokens.",
            ["alias"],
            registry=reg,
        )
        self.rule_blocks = Counter(
            "plumbline_rule_blocks_total", "Candidates blocked, by rule.", ["alias", "rule"], registry=reg
        )
        self.rule_hits = Counter(
            "plumbline_rule_hits_total",
            "Requests and candidates to which a rule applied, by what followed.",
            ["alias", "rule", "action"],
            registry=reg,
        )
        self.rule_failures = Counter(
            "plumbline_rule_failures_total",
            "Requests and candidates of which a rule or guard could find nothing out.",
            ["alias", "rule"],
            registry=reg,
        )
        self.degraded = Counter(
            "plumbline_degraded_total", "Requests judged without one of their scorers.", ["alias", "part"], registry=reg
        )
        self.signals = Counter("plumbline_feedback_total", "Signals kept, by kind.", ["alias", "kind"], registry=reg)
        self.store_write_seconds = Histogram(
            "plumbline_store_write_seconds",
            "Time until a chat group was durable.",
            buckets=LATENCY_BUCKETS_S,
            registry=reg,
        )
        self.store_errors = Counter("plumbline_store_errors_total", "Requests the store could not take.", registry=reg)
        self.store_healthy = Gauge(
            "plumbline_store_healthy", "1 while the store confirms what is written.", registry=reg
        )
        self.routing_generation = Gauge(
            "plumbline_routing_generation", "Grows by one with each move.", ["alias"], registry=reg
        )
        self.canary_share = Gauge(
            "plumbline_canary_share_ratio", "Share of users that the canary gets.", ["alias"], registry=reg
        )
        self.canary_answers = Gauge(
            "plumbline_canary_answers", "Answers that count as the running canary's evidence.", ["alias"], registry=reg
        )
        self.rollout_waiting = Gauge(
            "plumbline_rollout_waiting",
            "1 while the server holds back a start or a promotion; GET /v1/routing says why.",
            ["alias"],
            registry=reg,
        )
        self.shadows = Counter(
            "plumbline_shadows_total",
            "Requests drawn for a shadow, by what became of them.",
            ["alias", "outcome"],  # answered | failed | dropped
            registry=reg,
        )
        self.learner_prompts = Counter(
            "plumbline_learner_rollouts_total",
            "Prompts that learners had answered anew, by what became of them.",
            ["alias", "outcome"],  # answered | the reason why not
            registry=reg,
        )
        self.adapter_moves = Counter(
            "plumbline_adapter_moves_total", "Adapter state changes.", ["alias", "state"], registry=reg
        )
        self.feed_head = Gauge("plumbline_feed_head", "Seq of the newest feed entry.", ["alias"], registry=reg)
        self.learner_heartbeat = Gauge(
            "plumbline_learner_heartbeat_timestamp_seconds", "Last sign of life.", ["alias"], registry=reg
        )
        self.learner_gauge = Gauge(
            "plumbline_learner_value", "What the learner last reported.", ["alias", "name"], registry=reg
        )
        self.learner_rounds = Counter(
            "plumbline_learner_rounds_total", "Rounds by outcome.", ["alias", "outcome"], registry=reg
        )
        self.engine_ready = Gauge(
            "plumbline_engine_probe_success",
            "1 while the engine generates a token when asked.",
            ["replica"],
            registry=reg,
        )
        self.engine_restarts = Gauge(
            "plumbline_engine_restarts", "How often the engine was started again.", ["replica"], registry=reg
        )
        self.replica_in = Gauge("plumbline_replica_in", "1 while the replica gets requests.", ["replica"], registry=reg)
        self.replica_tokens = Gauge(
            "plumbline_replica_outstanding_tokens", "Estimated tokens that it still owes.", ["replica"], registry=reg
        )
        self.replica_taken_out = Gauge(
            "plumbline_replica_taken_out",
            "How often it was taken out for not being reached, or not serving an adapter as it should.",
            ["replica", "reason"],
            registry=reg,
        )

    def alias(self, name: str) -> str:
        return name if name in self._aliases else "other"

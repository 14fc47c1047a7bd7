"""Prometheus metrics: base units, bounded labels, an own registry, served on a private listener.

Label values come from the configuration and from closed lists only; whatever else arrives is `other`. What is read
when it is scraped and has no object here is in `server.scraped`; `docs/observability.md` lists every metric.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

LATENCY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MOVE_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0)
EXAMINATION_BUCKETS_S: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
COUNT_BUCKETS: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0)
SCORE_BUCKETS: Final = (-10.0, -5.0, -2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)

EXAMINATIONS: Final = {"probe": ("passed", "failed"), "gate": ("passed", "inconclusive", "failed")}

LEARNER_GAUGES: Final = {
    "accuracy": "Share of the last step's pairs on whose side the policy is.",
    "chosen_logprob": "Mean log-probability of the last step's preferred answers, in nats.",
    "grad_norm": "Norm of the last step's gradient, before clipping.",
    "groups": "Groups that the round learns from.",
    "kl": "Estimated divergence from the reference, in nats.",
    "learning_rate": "Learning rate of the last step.",
    "length": "Mean tokens of the last step's answers.",
    "loss": "Loss of the last step.",
    "margin": "Mean margin of the last step's pairs.",
    "progress": "How far the round's training is, from 0 to 1.",
    "rejected_logprob": "Mean log-probability of the last step's other answers, in nats.",
    "reward": "Mean reward of the last step's answers that have one.",
    "rollout_reward": "Mean reward of the last step's rollouts.",
    "signals": "Signals that the round learns from.",
    "skipped": "Groups and labels that the round left out.",
    "steps_discarded": "Steps of the round that were discarded.",
    "unpaired_margin": "Mean margin of the last step's single ratings.",
    "validation_accuracy": "Share of the opinions kept back on whose side the last epoch's policy is.",
    "validation_loss": "Loss on the opinions kept back, after the last epoch.",
}
"""What learners may tell in heartbeats, each as `plumbline_learner_NAME`; the rest is dropped: names stay bounded."""

_M = TypeVar("_M", Counter, Gauge, Histogram)


class Metrics:
    """All metrics of the process. `aliases` bounds the label values that requests could bring."""

    def __init__(self, *, aliases: Iterable[str], version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each one, which nobody reads
        self.registry = CollectorRegistry()
        self._aliases = frozenset(aliases)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        build = self._gauge("build_info", "Constant 1, labelled by version.", "version")
        build.labels(version).set(1)
        self._of_requests()
        self._of_images()
        self._of_answers()
        self._of_signals()
        self._of_state()
        self._of_adapters()
        self._of_learning()
        self._of_engines()

    def alias(self, name: str) -> str:
        return name if name in self._aliases else "other"

    def begin(self, alias: str, *, rules: Iterable[str], scorers: Iterable[str]) -> None:
        """Zeros for what alerts look at: a counter that appears with its first event has not increased."""
        for rule in rules:
            self.rule_failures.labels(alias, rule)
            self.rule_blocks.labels(alias, rule)
        for scorer in scorers:
            self.degraded.labels(alias, scorer)
        for outcome in ("uploaded", "discarded", "skipped"):
            self.learner_rounds.labels(alias, outcome)
        for state in ("active", "canary", "rejected", "rolled_back", "quarantined"):
            self.adapter_moves.labels(alias, state)
        for examination, outcomes in EXAMINATIONS.items():
            for outcome in outcomes:
                self.examinations.labels(alias, examination, outcome)
        for outcome in ("chosen", "not_chosen", "rejected", "blocked"):
            self.candidates.labels(alias, outcome)

    def moved(self, alias: str, state: str) -> None:
        """An adapter has come to a state."""
        self.adapter_moves.labels(alias, state).inc()

    def followed(self, action: str, seconds: float) -> None:
        """Requests follow a move."""
        self.move_seconds.labels(action).observe(seconds)

    def examined(self, alias: str, examination: str, outcome: str, seconds: float) -> None:
        """A probe or gate has ended."""
        self.examinations.labels(alias, examination, outcome).inc()
        self.examination_seconds.labels(examination).observe(seconds)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return self._new(Counter, name, words, labels)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return self._new(Gauge, name, words, labels)

    def _histogram(self, name: str, words: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
        return self._new(Histogram, name, words, labels, buckets=buckets)

    def _new(self, kind: type[_M], name: str, words: str, labels: tuple[str, ...], **more: Any) -> _M:
        return kind(f"plumbline_{name}", words, labels, registry=self.registry, **more)

    def _of_requests(self) -> None:
        self.requests = self._counter("requests_total", "HTTP requests by route and status.", "route", "status")
        self.request_seconds = self._histogram(
            "request_duration_seconds",
            "Time from the first byte of a request to the last of its reply.",
            "route",
            buckets=LATENCY_BUCKETS_S,
        )
        self.errors = self._counter(
            "errors_total", "Refusals and failures by the error's code, in streams too.", "code"
        )
        self.first_token_seconds = self._histogram(
            "time_to_first_token_seconds",
            "Time from a streamed request to the first piece of its answer.",
            "alias",
            buckets=LATENCY_BUCKETS_S,
        )
        self.stage_seconds = self._histogram(
            "stage_duration_seconds",
            "Time that a part of a chat request took; a stage may come several times in one.",
            "alias",
            "stage",  # admit | queue | generate | judge | commit
            buckets=LATENCY_BUCKETS_S,
        )
        self.overhead_seconds = self._histogram(
            "overhead_seconds",
            "Chat time outside the queue, the engine and the scorers.",
            buckets=LATENCY_BUCKETS_S,
        )
        self.in_flight = self._gauge("requests_in_flight", "Chat requests inside or waiting.")
        self.waiting = self._gauge("requests_waiting", "Chat requests in the queue.")
        self.queue_limit = self._gauge("requests_waiting_limit", "How many chat requests may wait.")
        self.loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds",
            "How much later than asked for the event loop went on.",
            buckets=LAG_BUCKETS_S,
        )

    def _of_images(self) -> None:
        self.image_fetches = self._counter(
            "image_fetches_total",
            "Images named by an address, by what became of them.",
            "outcome",  # fetched | abandoned | the error's code
        )
        self.images_waiting = self._gauge("images_waiting", "Images being fetched or decoded, or waiting for it.")
        self.image_bytes = self._gauge("image_bytes_in_flight", "Bytes of images that requests hold.")

    def _of_answers(self) -> None:
        self.candidates = self._counter(
            "candidates_total",
            "Candidates by what became of them.",
            "alias",
            "outcome",  # chosen | not_chosen | rejected | blocked
        )
        self.request_candidates = self._histogram(
            "request_candidates", "Candidates generated for a chat request.", "alias", buckets=COUNT_BUCKETS
        )
        self.prompt_tokens = self._counter(
            "prompt_tokens_total", "Tokens of prompts, once for each chat request.", "alias"
        )
        self.generated_tokens = self._counter("generated_tokens_total", "Tokens of all candidates.", "alias")
        self.reward_score = self._histogram(
            "reward_score",
            "What a scorer, and `ensemble` by all that do not ask the policy itself, found of the answer shown first.",
            "alias",
            "scorer",
            buckets=SCORE_BUCKETS,
        )
        self.stepwise_dropped = self._counter(
            "stepwise_dropped_total",
            "Sentences of stepwise answers that were given up: the engine reads their text as other tokens.",
            "alias",
        )
        self.rule_blocks = self._counter("rule_blocks_total", "Candidates blocked, by rule.", "alias", "rule")
        self.rule_hits = self._counter(
            "rule_hits_total",
            "Requests and candidates to which a rule applied, by what followed.",
            "alias",
            "rule",
            "action",
        )
        self.rule_failures = self._counter(
            "rule_failures_total",
            "Requests and candidates of which a rule or guard could find nothing out.",
            "alias",
            "rule",
        )
        self.degraded = self._counter(
            "degraded_total", "Requests judged without one of their scorers.", "alias", "part"
        )

    def _of_signals(self) -> None:
        self.signals = self._counter("feedback_total", "Signals of people kept, by kind.", "alias", "kind")
        self.automatic_pairs = self._counter(
            "automatic_pairs_total",
            "Training pairs that followed from an answer alone.",
            "alias",
            "source",  # safety | ai
        )
        self.agreement = self._counter(
            "reward_agreement_total",
            "Pairs of answers that a person compared, by whether a scorer (or `ensemble`) puts them in the same order.",
            "alias",
            "scorer",
            "verdict",  # agrees | disagrees | tied
        )

    def _of_state(self) -> None:
        self.store_write_seconds = self._histogram(
            "store_write_seconds", "Time until a chat group was durable.", buckets=LATENCY_BUCKETS_S
        )
        self.store_errors = self._counter("store_errors_total", "Requests the store could not take.")
        self.store_healthy = self._gauge("store_healthy", "1 while the store confirms what is written.")
        self.store_bytes = self._gauge("store_size_bytes", "Size of the database.")
        self.stored_images = self._gauge("stored_images", "Images kept, counted by the hourly sweep.")
        self.disk_free_bytes = self._gauge("disk_free_bytes", "Free space where the state lives.")
        self.disk_bytes = self._gauge("disk_size_bytes", "Size of the file system where the state lives.")
        self.disk_reserve_bytes = self._gauge(
            "disk_reserve_bytes", "With less free space than this, uploads are refused."
        )

    def _of_adapters(self) -> None:
        self.routing_generation = self._gauge("routing_generation", "Grows by one with each move.", "alias")
        self.canary_share = self._gauge("canary_share_ratio", "Share of users that the canary gets.", "alias")
        self.canary_answers = self._gauge(
            "canary_answers", "Answers that count as the running canary's evidence.", "alias"
        )
        self.rollout_waiting = self._gauge(
            "rollout_waiting",
            "1 while the server holds back a start or a promotion; GET /v1/routing says why.",
            "alias",
        )
        self.shadows = self._counter(
            "shadows_total",
            "Requests drawn for a shadow, by what became of them.",
            "alias",
            "outcome",  # answered | failed | dropped
        )
        self.adapter_moves = self._counter("adapter_moves_total", "Adapter state changes.", "alias", "state")
        self.move_seconds = self._histogram(
            "adapter_move_seconds",
            "Time until requests follow a move, once the engines are ready for it, by what was ordered.",
            "action",
            buckets=MOVE_BUCKETS_S,
        )
        self.examinations = self._counter(
            "adapter_examinations_total",
            "Probes and gates by outcome.",
            "alias",
            "examination",  # probe | gate
            "outcome",
        )
        self.examination_seconds = self._histogram(
            "adapter_examination_seconds",
            "Time that a probe or gate took.",
            "examination",
            buckets=EXAMINATION_BUCKETS_S,
        )

    def _of_learning(self) -> None:
        self.feed_head = self._gauge("feed_head", "Seq of the newest feed entry.", "alias")
        self.feed_position = self._gauge(
            "feed_position", "Seq of the last feed entry that the learner had when it last asked.", "alias"
        )
        self.feed_lag_seconds = self._gauge(
            "feed_lag_seconds",
            "Age of the oldest feed entry that the learner has not read; 0: it has read all.",
            "alias",
        )
        self.learner_heartbeat = self._gauge(
            "learner_heartbeat_timestamp_seconds", "When the learner last read the feed or sent a heartbeat.", "alias"
        )
        self.learner_gauges = {
            name: self._gauge(f"learner_{name}", words, "alias") for name, words in LEARNER_GAUGES.items()
        }
        self.learner_rounds = self._counter("learner_rounds_total", "Rounds by outcome.", "alias", "outcome")
        self.learner_prompts = self._counter(  # outcome: answered, or the reason why not
            "learner_rollouts_total",
            "Prompts that learners had answered anew, by what became of them.",
            "alias",
            "outcome",
        )

    def _of_engines(self) -> None:
        self.engine_ready = self._gauge(
            "engine_probe_success", "1 while the engine generates a token when asked.", "replica"
        )
        self.replica_in = self._gauge("replica_in", "1 while the replica gets requests.", "replica")
        self.replica_tokens = self._gauge(
            "replica_outstanding_tokens", "Estimated tokens that it still owes.", "replica"
        )

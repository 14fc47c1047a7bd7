"""A real Prometheus scrapes a running server whose users chat and say what they think, and whose learner learns."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from server.app import serve_metrics
from server.config import AliasConfig, RuleConfig, ScorerConfig, SignalsConfig
from tests.api.conftest import CHAT, chat_body
from tests.api.served import Served, served
from tests.observability.prometheus import Prometheus, program, running
from tests.observability.queries import families, named, rules

OPERATOR, LEARNER = "default-operator", "default-learner"
ONLY_LATER = {
    "plumbline_canary_evidence_ratio",  # a canary runs
    "plumbline_feed_lag_seconds",  # the next look
    "plumbline_image_fetches_total",  # images by address, off by default
    "plumbline_learner_unpaired_margin",
    "plumbline_stepwise_dropped_total",  # stepwise answers
    "plumbline_shadows_total",  # a shadow runs
    "plumbline_rule_hits_total",  # a rule applies
    "plumbline_automatic_pairs_total",  # a clear margin
    "plumbline_adapter_examination_seconds_bucket",  # an upload
    "plumbline_adapter_move_seconds_bucket",  # a move
    "plumbline_stored_images",
}
"""Registered, but without series until these come."""


@dataclass(frozen=True, slots=True)
class Watched:
    server: Served
    prometheus: Prometheus
    metrics_url: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program("prometheus")
    directory = tmp_path_factory.mktemp("scraped")
    alias = AliasConfig(
        best_of=3,
        rules=(RuleConfig(name="secret", kind="pattern", pattern="forbidden word"),),
        scorers=(ScorerConfig(kind="length", target_tokens=3), ScorerConfig(kind="logprob")),
        signals=SignalsConfig(holdout_share=0.0),
    )
    with served(directory / "state", aliases=(alias,)) as server:
        listener = serve_metrics(server.services.config, server.services.metrics)
        try:
            address = f"127.0.0.1:{listener.server_port}"
            with running(directory, {"plumbline": address}) as prometheus:
                prometheus.until('up{job="plumbline"} == 1')
                use(server)
                yield Watched(server, prometheus, f"http://{address}/metrics")
        finally:
            listener.shutdown()
            listener.server_close()


def use(server: Served) -> None:
    """A day in the life."""
    for number in range(4):
        answer = server.ask("POST", CHAT, chat_body(seed=number, plumbline={"compare": True}))
        assert answer.status == 200, answer.body
        reply = json.loads(answer.body)
        first, second = (one["candidate_id"] for one in reply["choices"])
        said = {"completion_id": reply["id"], "chosen": first, "rejected": second}
        assert server.ask("POST", "/v1/preferences", said).status == 200
        assert server.ask("POST", "/v1/feedback", {"completion_id": reply["id"], "rating": "up"}).status == 200
    assert server.ask("POST", CHAT, chat_body(stream=True, best_of=1)).status == 200
    assert server.ask("POST", CHAT, chat_body(model="nobody")).status == 404
    lease = server.ask("POST", "/v1/training/lease", {"alias": "default", "owner": "test"}, who=LEARNER)
    gauges = dict.fromkeys(("loss", "kl", "accuracy", "margin", "grad_norm", "learning_rate", "progress"), 0.5)
    gauges |= {"signals": 8.0, "chosen_logprob": -1.0, "rejected_logprob": -2.0}
    beat = {"alias": "default", "token": json.loads(lease.body)["token"], "metrics": gauges}
    assert server.ask("POST", "/v1/training/heartbeat", beat, who=LEARNER).status == 200
    assert server.ask("GET", "/v1/training/feed?alias=default", who=LEARNER).status == 200


def test_the_server_is_up(watched: Watched) -> None:
    """The target answers within its time, and the figures are those of what happened."""
    (health,) = watched.prometheus.get("/api/v1/targets")["activeTargets"]
    assert (health["health"], health["lastError"]) == ("up", "")
    watched.prometheus.until('plumbline_feedback_total{kind="choice"} == 4')
    watched.prometheus.until('plumbline_requests_total{route="/v1/chat/completions",status="200"} == 5')
    watched.prometheus.until('plumbline_request_candidates_count{alias="default"} == 5')


def test_every_metric_that_is_asked_for_is_there(watched: Watched) -> None:
    """Of dashboards, rules and alerts: registered on the running server, and in use wherever that can be."""
    watched.prometheus.until("plumbline_feed_position")
    registered = families(watched.prometheus.get("/api/v1/metadata"))
    series = set(watched.prometheus.get("/api/v1/label/__name__/values"))
    asked = {one for one in named() if not one.startswith("vllm:")}
    assert not asked - registered
    assert not asked - series - ONLY_LATER


def test_recording_rules_and_alerts_are_evaluated(watched: Watched) -> None:
    """Prometheus finds no fault with any of them on what the server really says."""
    watched.prometheus.until("plumbline:requests:rate5m")
    groups = watched.prometheus.get("/api/v1/rules")["groups"]
    loaded = [one for group in groups for one in group["rules"]]
    assert len(loaded) == len(list(rules()))
    assert {one["name"]: one.get("lastError") for one in loaded if one["health"] == "err"} == {}


def test_nothing_is_wrong_with_the_names(watched: Watched) -> None:
    """Promtool's own lint on a real scrape: units, suffixes, help texts."""
    with urllib.request.urlopen(watched.metrics_url, timeout=10) as reply:
        scraped = reply.read()
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=scraped, capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_metrics_are_on_no_public_port(watched: Watched) -> None:
    assert watched.server.ask("GET", "/metrics", who=OPERATOR).status == 404

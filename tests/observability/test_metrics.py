"""Metrics say what happened, measured where it happens."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest

from server import agreement
from server.config import ScorerConfig
from server.engine.port import EngineError
from server.metrics import SCORE_BUCKETS
from server.retention import Retention
from server.sampling import Sampler
from server.store import feed
from server.store.records import FeedKind, GroupRecord, SignalKind
from tests.api.conftest import Opener, Stack, assert_openai_error, chat_body, config_for
from tests.server.adapters.test_api import App, open_app
from tests.server.store import rows

CHAT = "/v1/chat/completions"


def value(stack: Stack | App, name: str, **labels: str) -> float:
    found = stack.services.metrics.registry.get_sample_value(f"plumbline_{name}", labels)
    assert found is not None, (name, labels)
    return found


async def test_tokens_and_candidates_are_the_engines(stack: Stack) -> None:
    """Prompt tokens once for each request, generated ones of every candidate."""
    reply = await stack.chat(best_of=3, plumbline={"explain": True})
    assert value(stack, "prompt_tokens_total", alias="default") == reply["usage"]["prompt_tokens"]
    assert value(stack, "generated_tokens_total", alias="default") == reply["usage"]["completion_tokens"]
    assert value(stack, "request_candidates_sum", alias="default") == 3
    assert value(stack, "request_candidates_count", alias="default") == 1


async def test_overhead_is_what_the_engine_does_not_take(stack: Stack) -> None:
    """A slow engine shows in its stage and in the whole, not in the overhead: of answers, and of streams."""
    stack.engine.delay_s = 0.3
    await stack.chat(best_of=2)
    async with stack.client.stream("POST", CHAT, json=chat_body(stream=True, best_of=1)) as response:
        await response.aread()
    assert value(stack, "overhead_seconds_count") == 2
    assert value(stack, "overhead_seconds_sum") < 0.3
    assert value(stack, "stage_duration_seconds_sum", alias="default", stage="generate") >= 0.6
    assert value(stack, "request_duration_seconds_sum", route=CHAT) >= 0.6
    for stage in ("admit", "queue", "judge", "commit"):
        assert value(stack, "stage_duration_seconds_count", alias="default", stage=stage) == 2


@pytest.mark.parametrize("best_of", [1, 2])
async def test_the_first_token_is_timed_once(stack: Stack, best_of: int) -> None:
    """Of streams alone, whether the answer grows or is chosen first; not before the engine has said anything."""
    await stack.chat(best_of=2)
    stack.engine.delay_s = 0.1
    async with stack.client.stream("POST", CHAT, json=chat_body(stream=True, best_of=best_of)) as response:
        await response.aread()
    assert value(stack, "time_to_first_token_seconds_count", alias="default") == 1
    assert value(stack, "time_to_first_token_seconds_sum", alias="default") >= 0.1


async def test_errors_are_counted_by_code_in_streams_too(stack: Stack) -> None:
    refused = await stack.client.post(CHAT, json=chat_body(model="nobody"))
    assert_openai_error(refused, 404, "model_not_found")
    assert value(stack, "errors_total", code="model_not_found") == 1
    stack.engine.fail_next(EngineError("down"))
    async with stack.client.stream("POST", CHAT, json=chat_body(stream=True, best_of=1)) as response:
        assert b"engine_unavailable" in await response.aread()
    assert value(stack, "errors_total", code="engine_unavailable") == 1


async def test_waiting_requests_are_seen(open_stack: Opener, tmp_path: Path) -> None:
    """Those in the queue, beside all that are present, and what is refused when it is full."""
    config = config_for(tmp_path)
    http = config.http.model_copy(update={"max_concurrent_requests": 1, "max_queued_requests": 1})
    stack = await open_stack(config.model_copy(update={"http": http}))
    stack.engine.delay_s = 0.5
    asking = [asyncio.create_task(stack.client.post(CHAT, json=chat_body())) for _ in range(3)]
    await asyncio.sleep(0.2)
    assert (value(stack, "requests_in_flight"), value(stack, "requests_waiting")) == (2, 1)
    assert value(stack, "requests_waiting_limit") == 1
    assert sorted(one.status_code for one in await asyncio.gather(*asking)) == [200, 200, 429]
    assert value(stack, "errors_total", code="queue_full") == 1
    assert value(stack, "requests_waiting") == 0


async def test_rewards_and_agreement_are_those_of_the_answers(open_stack: Opener, tmp_path: Path) -> None:
    """The score of the answer shown first; and whether people choose as each scorer does."""
    scorers = (ScorerConfig(kind="length", target_tokens=1), ScorerConfig(kind="logprob"))
    stack = await open_stack(config_for(tmp_path, scorers=scorers, best_of=2))
    stack.engine.script = lambda model, prompt, index: "short" if index == 0 else "much longer than the other one"
    reply = await stack.chat(plumbline={"compare": True, "explain": True})
    length = {one["candidate_id"]: one["scores"]["length"] for one in reply["plumbline"]["explanation"]["candidates"]}
    shorter, longer = sorted(length, key=lambda one: -length[one])
    first = reply["choices"][0]["candidate_id"]
    for edge in SCORE_BUCKETS:
        seen = value(stack, "reward_score_bucket", alias="default", scorer="length", le=str(edge))
        assert seen == (length[first] <= edge)
    said = {"completion_id": reply["id"], "chosen": longer, "rejected": shorter}
    assert (await stack.client.post("/v1/preferences", json=said)).status_code == 200
    assert value(stack, "reward_agreement_total", alias="default", scorer="length", verdict="disagrees") == 1
    assert value(stack, "feedback_total", alias="default", kind="choice") == 1


def record(**scores: tuple[float | None, ...]) -> GroupRecord:
    """A group with a candidate for each place; the first scorer's value is its total."""
    totals = next(iter(scores.values()))
    candidates = [
        rows.candidate("g", place, total=total, scores={name: ["1", one[place]] for name, one in scores.items()})
        for place, total in enumerate(totals)
    ]
    return dataclasses.replace(rows.group("g"), candidates=tuple(candidates))


def test_a_ranking_is_all_of_its_pairs() -> None:
    """Three in order are three pairs; a scorer without a value for one of them says nothing of it."""
    group = record(good=(3.0, 2.0, 1.0), bad=(1.0, 2.0, None), flat=(0.0, 0.0, 0.0))
    seen = list(agreement.compared(group, SignalKind.RANKING, {"ranking": ["g.0", "g.1", "g.2"]}))
    assert seen.count(("good", "agrees")) == 3
    assert [one for one in seen if one[0] == "bad"] == [("bad", "disagrees")]
    assert seen.count(("flat", "tied")) == 3
    assert seen.count((agreement.ENSEMBLE, "agrees")) == 3


def test_what_compares_nothing_says_nothing() -> None:
    group = record(good=(2.0, 1.0))
    assert list(agreement.compared(group, SignalKind.RATING, {"rating": 1.0, "candidate_id": "g.0"})) == []
    assert list(agreement.compared(group, SignalKind.TIE, {"tie": "good"})) == []
    gone = {"chosen": "g.0", "rejected": ["nobody"]}
    assert list(agreement.compared(group, SignalKind.CHOICE, gone)) == []


async def test_examinations_and_moves_are_counted_and_timed(tmp_path: Path) -> None:
    """An adapter's probe and gate, its promotion, its rollback; and who serves now."""
    installation, app = await open_app(tmp_path)
    try:
        adapter = await app.gated()
        assert value(app, "adapter_examinations_total", alias="default", examination="probe", outcome="passed") == 1
        assert value(app, "adapter_examination_seconds_count", examination="probe") == 1
        outcomes = ("passed", "inconclusive", "failed")
        gate = [
            value(app, "adapter_examinations_total", alias="default", examination="gate", outcome=one)
            for one in outcomes
        ]
        assert sum(gate) == value(app, "adapter_examination_seconds_count", examination="gate") == 1
        await app.call("POST", f"/v1/adapters/{adapter}/canary", json={"share": 0.5})
        assert value(app, "adapter_info", alias="default", adapter=adapter, role="canary") == 1
        assert value(app, "canary_share_ratio", alias="default") == 0.5
        await app.call("POST", f"/v1/adapters/{adapter}/promote", json={})
        assert value(app, "adapter_info", alias="default", adapter=adapter, role="active") == 1
        await app.call("POST", "/v1/rollback", json={})
        for action in ("canary", "promote", "rollback"):
            assert value(app, "adapter_move_seconds_count", action=action) == 1
        assert value(app, "adapter_info", alias="default", adapter="base", role="active") == 1
        gone = {"alias": "default", "adapter": adapter, "role": "active"}
        assert app.services.metrics.registry.get_sample_value("plumbline_adapter_info", gone) is None
        assert value(app, "adapter_moves_total", alias="default", state="rolled_back") == 1
    finally:
        await app.client.aclose()
        await installation.close()


async def test_a_canarys_evidence_is_a_share_of_what_is_needed(tmp_path: Path) -> None:
    """Each metric's, both ways; gone with the canary."""
    installation, app = await open_app(tmp_path)
    try:
        adapter = await app.gated()
        await app.call("POST", f"/v1/adapters/{adapter}/canary", json={"share": 0.5})
        labels = {"alias": "default", "metric": "thumbs", "shows": "harm"}
        registry = app.services.metrics.registry
        end = time.monotonic() + 10
        while (share := registry.get_sample_value("plumbline_canary_evidence_ratio", labels)) is None:
            assert time.monotonic() < end
            app.services.rollout.wake()
            await asyncio.sleep(0.05)
        assert 0 < share < 1
        await app.call("POST", f"/v1/adapters/{adapter}/reject", json={})
        assert registry.get_sample_value("plumbline_canary_evidence_ratio", labels) is None
    finally:
        await app.client.aclose()
        await installation.close()


async def test_the_feeds_lag_is_the_age_of_what_is_unread(stack: Stack, tmp_path: Path) -> None:
    """Nothing is said before a learner has asked; then the oldest unread entry counts, until it is read."""
    reply = await stack.chat()
    services, metrics = stack.services, stack.services.metrics
    now = time.time()
    await services.database.write(lambda c: feed.append(c, "default", reply["id"], FeedKind.SIGNAL, now - 500))

    async def look() -> None:
        sampler = Sampler(
            metrics,
            services.database,
            directory=tmp_path,
            aliases=["default"],
            positions=services.feed_positions.get,
            clock=lambda: now,
        )
        await sampler.look()

    await look()
    assert metrics.registry.get_sample_value("plumbline_feed_lag_seconds", {"alias": "default"}) is None
    assert value(stack, "feed_head", alias="default") == 1
    await stack.client.get("/v1/training/feed", params={"alias": "default"})
    await look()
    assert value(stack, "feed_lag_seconds", alias="default") == pytest.approx(500)
    await stack.client.get("/v1/training/feed", params={"alias": "default", "after": 1})
    await look()
    assert value(stack, "feed_lag_seconds", alias="default") == 0
    assert value(stack, "feed_position", alias="default") == 1
    assert value(stack, "learner_heartbeat_timestamp_seconds", alias="default") >= now
    assert value(stack, "store_size_bytes") > 0
    assert 0 < value(stack, "disk_free_bytes") < value(stack, "disk_size_bytes")


async def test_the_databases_size_is_known(each_stack: Stack, tmp_path: Path) -> None:
    """On SQLite and PostgreSQL."""
    metrics, database = each_stack.services.metrics, each_stack.services.database
    sampler = Sampler(metrics, database, directory=tmp_path, aliases=[], positions=lambda alias: None, clock=time.time)
    await sampler.look()
    assert value(each_stack, "store_size_bytes") > 4096


async def test_the_sweep_counts_images(stack: Stack) -> None:
    await stack.chat()
    services = stack.services
    count = services.metrics.stored_images.set
    await Retention(services.config.store, services.database, services.blobs, time.time, count).run()
    assert value(stack, "stored_images") == 1


async def test_a_loop_that_is_held_up_lags(stack: Stack) -> None:
    """What blocks the event loop shows in the histogram."""
    await asyncio.sleep(0.1)
    time.sleep(0.8)  # noqa: ASYNC251 - it is to block
    await asyncio.sleep(0.1)
    assert value(stack, "event_loop_lag_seconds_sum") >= 0.25


async def test_learners_names_are_bounded(stack: Stack) -> None:
    """Known figures become gauges of their own, others nothing."""
    lease = await stack.client.post("/v1/training/lease", json={"alias": "default", "owner": "one"})
    figures = {"loss": 0.25, "kl": 0.5, "my secret": 1.0}
    body = {"alias": "default", "token": lease.json()["token"], "metrics": figures}
    assert (await stack.client.post("/v1/training/heartbeat", json=body)).status_code == 200
    assert (value(stack, "learner_loss", alias="default"), value(stack, "learner_kl", alias="default")) == (0.25, 0.5)

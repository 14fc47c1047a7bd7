"""Shadows, on the whole application: they answer unseen, teach nothing, and disturb nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from reward.types import Prompt
from server.config import RuleConfig, ScorerConfig, SignalsConfig
from server.engine.fake import FakeEngine
from server.engine.port import EngineError, Generation, Sampling
from server.store import schema
from tests.api.conftest import assert_openai_error
from tests.server.adapters.support import until
from tests.server.adapters.test_api import App, open_app

ALIAS: dict[str, Any] = {
    "best_of": 2,
    "rules": (RuleConfig(name="secret", kind="pattern", pattern="forbidden"),),
    "scorers": (ScorerConfig(kind="length", target_tokens=3), ScorerConfig(kind="logprob")),
    "signals": SignalsConfig(holdout_share=0.0),
}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    installation, opened = await open_app(tmp_path, alias=ALIAS)
    yield opened
    await opened.client.aclose()
    await installation.close()


class StuckEngine(FakeEngine):
    """Never ends an answer of one model."""

    stuck = ""
    entered = 0

    async def generate(self, model: str, prompt: Prompt, n: int, sampling: Sampling) -> Generation:
        if model == self.stuck:
            self.entered += 1
            await asyncio.sleep(3600)
        return await super().generate(model, prompt, n, sampling)


def says(app: App, shadow: str, text: str) -> None:
    """Base says three words; the shadow something else."""

    def script(model: str, prompt: Prompt, index: int) -> str:
        return text if model == shadow else f"a red cup{index}"

    app.engine.script = script


async def start(app: App, share: float = 1.0) -> str:
    adapter = await app.gated()
    await app.call("POST", f"/v1/adapters/{adapter}/shadow", json={"share": share})
    return adapter


async def chat(app: App, **changes: Any) -> dict[str, Any]:
    body = {"model": "default", "messages": [{"role": "user", "content": "What is there?"}], **changes}
    return await app.call("POST", "/v1/chat/completions", json=body)


async def rows(app: App) -> list[Any]:
    return await app.services.database.read(lambda c: list(c.execute(select(schema.shadows))))


def kept(app: App, count: int) -> Callable[[], Any]:
    async def look() -> bool:
        return len(await rows(app)) >= count

    return look


def counted(app: App, outcome: str) -> float:
    value = app.services.metrics.registry.get_sample_value(
        "plumbline_shadows_total", {"alias": "default", "outcome": outcome}
    )
    return value or 0.0


async def test_a_shadow_answers_unseen(app: App) -> None:
    """The user gets the active adapter's answer; the shadow's is compared, and its text is nowhere."""
    adapter = await start(app)
    says(app, adapter, "far too many words for what was asked of it")
    reply = await chat(app, user="ann", plumbline={"explain": True, "return_group": True})
    assert reply["choices"][0]["message"]["content"].startswith("a red cup")
    assert "far too many" not in str(reply)
    await until(kept(app, 1))
    (row,) = await rows(app)
    assert (row.group_id, row.adapter, row.is_blocked, row.has_failed) == (reply["id"], adapter, False, False)
    assert row.reward < row.active_reward  # by length alone: its own log-probabilities do not judge a policy
    report = (await app.call("GET", f"/v1/adapters/{adapter}/report"))["shadow"]
    assert (report["active"], report["answers"], report["users"]) == ("base", 1, 1)
    assert report["reward_difference"]["value"] == pytest.approx(row.reward - row.active_reward)
    page = await app.client.get(f"/v1/adapters/{adapter}/report?format=markdown")
    assert "## shadow of base: 1 answers to 1 users" in page.text


async def test_a_request_is_kept_with_what_a_canary_is_judged_by(app: App) -> None:
    """How long it took, and a reward that asks every scorer but those that read the policy's own mind."""
    says(app, "", "")
    reply = await chat(app, plumbline={"explain": True})
    (shown,) = [one for one in reply["plumbline"]["explanation"]["candidates"] if one["probability"] == 1]
    table = schema.groups
    row = await app.services.database.read(lambda c: c.execute(select(table.c.reward, table.c.duration_s)).one())
    assert row.reward == shown["scores"]["length"] != shown["total"]
    assert 0 < row.duration_s < 10


async def test_operators_see_what_is_waited_for(app: App) -> None:
    """A gated adapter, and nobody to start it."""
    adapter = await app.gated()
    await until(lambda: app.services.rollout.waiting("default") is not None)
    (routing,) = (await app.call("GET", "/v1/routing"))["data"]
    assert routing["waiting"] == f"{adapter}: automatic is off: an operator decides"
    value = app.services.metrics.registry.get_sample_value("plumbline_rollout_waiting", {"alias": "default"})
    assert value == 1.0


async def test_the_group_and_the_feed_know_nothing_of_it(app: App) -> None:
    """Not one candidate of the shadow is kept, so nothing of it is exported or learned from."""
    adapter = await start(app)
    says(app, adapter, "forbidden words")
    reply = await chat(app)
    await until(kept(app, 1))
    await app.call("POST", "/v1/feedback", json={"completion_id": reply["id"], "rating": "up"})
    found = await app.services.database.read(lambda c: list(c.execute(select(schema.candidates.c.adapter))))
    assert {one.adapter for one in found} == {"base"}
    feed = await app.call("GET", "/v1/training/feed?alias=default")
    assert adapter not in str(feed) and "forbidden" not in str(feed)
    assert (await rows(app))[0].is_blocked
    report = (await app.call("GET", f"/v1/adapters/{adapter}/report"))["shadow"]
    assert (report["blocked_share"], report["active_blocked_share"]) == (1.0, 0.0)


async def test_a_streamed_answer_is_compared_too(app: App) -> None:
    """Nothing had to be chosen, so it is scored afterwards."""
    adapter = await start(app)
    says(app, adapter, "a red cup")
    body = {"model": "default", "messages": [{"role": "user", "content": "What?"}], "stream": True, "best_of": 1}
    response = await app.client.post("/v1/chat/completions", json=body)
    assert "[DONE]" in response.text
    await until(kept(app, 1))
    (row,) = await rows(app)
    assert row.reward is not None and row.active_reward is not None


async def test_a_failing_shadow_harms_nobody(app: App) -> None:
    """It is counted, and the request is as good as any."""
    adapter = await start(app)

    def script(model: str, prompt: Prompt, index: int) -> str:
        if model == adapter:
            raise EngineError("out of memory")
        return "a red cup"

    app.engine.script = script
    assert (await chat(app))["choices"]
    await until(kept(app, 1))
    (row,) = await rows(app)
    assert (row.has_failed, row.reward) == (True, None)
    assert counted(app, "failed") == 1
    assert (await app.call("GET", f"/v1/adapters/{adapter}/report"))["shadow"]["failed_share"]["value"] == 1.0


async def test_what_is_not_kept_is_not_shadowed(app: App) -> None:
    """`store: false` means nothing is kept of it anywhere; nor is a request shadowed that the share leaves out."""
    adapter = await start(app, share=1.0)
    await chat(app, store=False)
    await app.call("POST", f"/v1/adapters/{adapter}/shadow", json={"share": 0})
    await chat(app)
    await asyncio.sleep(0.1)
    assert await rows(app) == []
    assert adapter not in {call.model for call in app.engine.calls if call.method == "generate" and call.n == 2}


async def test_a_slow_shadow_delays_nobody_and_is_bounded(tmp_path: Path) -> None:
    """One at once: the others are dropped, the answers come; shutting down does not wait."""
    installation, app = await open_app(tmp_path, alias=ALIAS, shadow={"concurrent": 1}, engine_type=StuckEngine)
    adapter = await start(app)
    assert isinstance(app.engine, StuckEngine)
    app.engine.stuck = adapter
    async with asyncio.timeout(5):
        for _ in range(4):
            assert (await chat(app))["choices"]
    assert counted(app, "dropped") == 3
    assert app.engine.entered == 1
    await app.client.aclose()
    async with asyncio.timeout(5):
        await installation.close()


async def test_a_busy_engine_is_left_alone(tmp_path: Path) -> None:
    """With more requests present than the setting allows, no shadow begins."""
    installation, app = await open_app(tmp_path, alias=ALIAS, shadow={"busy_requests": 1})
    await start(app)
    app.engine.delay_s = 0.1
    with app.services.admission.join("somebody else"):
        await chat(app)
    assert counted(app, "dropped") == 1
    assert await rows(app) == []
    await app.client.aclose()
    await installation.close()


@pytest.mark.parametrize("action", ["promote", "reject", "quarantine"])
async def test_what_ends_the_adapter_ends_its_shadow(action: str, app: App) -> None:
    """In the same move."""
    adapter = await start(app)
    routing = await app.call("POST", f"/v1/adapters/{adapter}/{action}", json={})
    assert (routing["shadow"], routing["shadow_share"]) == (None, 0.0)
    assert routing["generation"] == 2


async def test_a_canary_that_is_ended_is_no_shadow(app: App) -> None:
    """It may be both at once; rolled back it is neither."""
    adapter = await start(app)
    await app.call("POST", f"/v1/adapters/{adapter}/canary", json={"share": 0.5})
    assert (await app.call("POST", "/v1/rollback", json={}))["shadow"] is None


async def test_bad_orders_are_refused(app: App) -> None:
    """No share, a stale generation, a second shadow, an adapter that is not one, one that may not be."""
    adapter = await start(app)
    other = await app.gated()
    path = "/v1/adapters/{}/shadow"
    for name, body, status, code in (
        (adapter, {}, 400, "invalid_request"),
        (adapter, {"share": 2}, 400, "invalid_request"),
        (adapter, {"share": 0.5, "expect_generation": 0}, 412, "stale_generation"),
        (other, {"share": 0.5}, 400, "shadow_running"),
        (other, {"share": 0}, 400, "illegal_move"),
        ("a00099-000000000000", {"share": 0.5}, 404, "adapter_not_found"),
    ):
        assert_openai_error(await app.client.post(path.format(name), json=body), status, code)
    await app.call("POST", path.format(adapter), json={"share": 0})
    await app.call("POST", f"/v1/adapters/{adapter}/reject", json={})
    refused = await app.client.post(path.format(adapter), json={"share": 0.5})
    assert_openai_error(refused, 400, "illegal_move")
    trail = (await app.call("GET", f"/v1/audit?subject={adapter}"))["data"]
    assert [one["action"] for one in trail].count("shadow") == 2


async def test_a_canarys_evidence_goes_on_when_a_shadow_begins(app: App) -> None:
    """It compares the same adapters as before, though routing is at another generation."""
    canary, other = await app.gated(), await app.gated()
    await app.call("POST", f"/v1/adapters/{canary}/canary", json={"share": 0.5})

    def generation() -> int | None:
        run = app.services.rollout.evidence("default")
        return None if run is None else run.record.generation

    await until(lambda: generation() == 1)
    routing = await app.call("POST", f"/v1/adapters/{other}/shadow", json={"share": 0.5})
    assert (routing["generation"], routing["canary"], routing["shadow"]) == (2, canary, other)
    for number in range(6):
        await chat(app, user=f"user-{number}")
    run = app.services.rollout.evidence("default")
    assert run is not None
    await until(lambda: run.position.group == 6)
    assert run.record.generation == 1
    assert sum(run.trial.summary()[f"{side}_answers"] for side in ("canary", "active")) == 6


async def test_one_that_was_declined_by_the_server_is_no_shadow_for_long(app: App) -> None:
    """Superseded or stale: the next look ends it."""
    adapter = await start(app)
    record = await app.services.registry.get(adapter)
    await app.services.rollout._examiner.reject(record, "superseded")
    app.services.rollout.wake()
    await until(lambda: app.services.router.current("default").shadow is None)

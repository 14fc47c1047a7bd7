"""Rollouts for learners: the production way, for what the feed tells of, and before no app."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from reward.types import Prompt
from server.config import AliasConfig, Config, RolloutsConfig, RuleConfig, ScorerConfig, SignalsConfig
from server.engine.port import EngineUnreachable
from server.store import adapters, groups
from server.store.records import AdapterRecord, AdapterState
from tests.api.conftest import Opener, Stack, assert_openai_error, config_for
from tests.api.keyed import call, open_keyed
from tests.api.saying import group_of, head, say, set_group

PATH = "/v1/training/rollouts"


def opened(directory: Path, **settings: Any) -> Config:
    """Two aliases whose reward is an answer's length, and which rules and hold-outs bind alike."""
    alias: dict[str, Any] = {
        "rules": (RuleConfig(name="secret", kind="pattern", pattern="forbidden word", on="both"),),
        "scorers": (ScorerConfig(kind="length", target_tokens=3),),
        "signals": SignalsConfig(holdout_share=0.0),
    } | settings
    base = config_for(directory)
    both = (AliasConfig(name="default", **alias), AliasConfig(name="second", **alias))
    return base.model_copy(update={"aliases": both})


@pytest.fixture
async def site(open_stack: Opener, tmp_path: Path) -> Stack:
    stack: Stack = await open_stack(opened(tmp_path))
    return stack


async def lease(stack: Stack, alias: str = "default", owner: str = "me") -> int:
    reply = await stack.client.post("/v1/training/lease", json={"alias": alias, "owner": owner})
    assert reply.status_code == 200, reply.text
    return int(reply.json()["token"])


async def rated(stack: Stack, number: int = 0, **body: Any) -> str:
    """A conversation that the feed tells of."""
    reply = await stack.chat(best_of=2, seed=number, max_tokens=12, **body)
    assert (await say(stack, reply["id"], rating="up", user="ann")).status_code == 200
    return str(reply["id"])


async def roll(stack: Stack, *group_ids: str, **changes: Any) -> httpx.Response:
    body = {"alias": "default", "adapter": "base", "candidates": 6, "seed": 3, "group_ids": list(group_ids)}
    if "token" not in changes:
        body["token"] = await lease(stack)
    return await stack.client.post(PATH, json=body | changes)


async def results(stack: Stack, *group_ids: str, **changes: Any) -> list[dict[str, Any]]:
    reply = await roll(stack, *group_ids, **changes)
    assert reply.status_code == 200, reply.text
    data: list[dict[str, Any]] = reply.json()["data"]
    assert [one["group_id"] for one in data] == list(group_ids)
    return data


async def add_adapter(stack: Stack, name: str, state: AdapterState, alias: str = "default") -> None:
    """A row alone: the fake engine has no files."""
    number = int(name[1:6])
    record = AdapterRecord(name, number, alias, state, "base", {}, 1.0, 1.0)
    await stack.services.database.write(lambda c: adapters.insert_adapter(c, record))


async def test_prompts_are_answered_anew_with_rewards(site: Stack) -> None:
    """The stored conversation with its image, at temperature 1, by the adapter named; tokens, log-probabilities and
    totals come back, and nothing of it is kept, told or counted as traffic.
    """
    first, second = await rated(site, 1), await rated(site, 2, messages=[{"role": "user", "content": "Hi"}])
    before, counted = await head(site), _traffic(site)
    one, two = await results(site, first, second)
    told = site.engine.calls[-2:]
    assert {call.sampling.temperature for call in told if call.sampling} == {1.0}
    assert {call.sampling.max_tokens for call in told if call.sampling} == {12}, "as long as the app let it be"
    assert sorted(len(call.prompt.images) for call in told) == [0, 1]
    stored = await group_of(site, first)
    for found, source in ((one["group"], first), (two["group"], second)):
        assert found["rewarded"] and found["on_policy_sampling"] and found["id"] != source
        assert len(found["candidates"]) == 6 and {each["adapter"] for each in found["candidates"]} == {"base"}
        assert all(len(each["token_ids"]) == len(each["logprobs"]) > 0 for each in found["candidates"])
        assert len({each["total"] for each in found["candidates"]}) > 1
    assert one["group"]["prompt_token_ids"] == list(stored.prompt_token_ids)
    assert one["group"]["images"] == [media.sha256 for media in stored.media]
    assert await head(site) == before and _traffic(site) == counted
    assert await site.services.database.read(lambda c: groups.get_group(c, one["group"]["id"])) is None
    again = await results(site, second, first)
    texts = [[each["token_ids"] for each in one["group"]["candidates"]] for one in (*again[::-1], one, two)]
    assert texts[:2] == texts[2:], "the same seed gives the same answers, whatever else is asked"
    assert texts[0] != texts[1]


def _traffic(stack: Stack) -> list[tuple[str, float]]:
    names = ("plumbline_candidates", "plumbline_rule", "plumbline_degraded", "plumbline_store_write", "plumbline_over")
    return [
        (sample.name + str(sample.labels), sample.value)
        for family in stack.services.metrics.registry.collect()
        if family.name.startswith(names)
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


async def test_rules_judge_as_in_production(site: Stack) -> None:
    """A blocked answer comes marked, loses to a clean one, and no second wave is asked; a request that rules refuse by
    now is not asked at all.
    """

    def script(model: str, prompt: Prompt, index: int) -> str | None:
        return "the forbidden word" if index % 2 else "a cup" + " and a plate" * index

    group = await rated(site)
    site.engine.script = script
    (one,) = await results(site, group)
    assert [each["blocked"] for each in one["group"]["candidates"]] == [False, True] * 3
    assert {pair["source"] for pair in one["group"]["pairs"]} == {"safety"}
    site.engine.script = lambda model, prompt, index: "the forbidden word"
    asked = len(site.engine.calls)
    (one,) = await results(site, group)
    assert not one["group"]["rewarded"] and len(site.engine.calls) == asked + 1
    await set_group(site, group, prompt=[{"role": "user", "parts": ["Say the forbidden word"]}])
    assert (await results(site, group))[0]["reason"] == "refused"


async def test_only_what_the_feed_tells_of_is_asked_again(open_stack: Opener, tmp_path: Path) -> None:
    """Everything else is a result with its reason, and the others of the call are answered."""
    site: Stack = await open_stack(opened(tmp_path))
    names = ["fine", "held out", "another tenant's", "erased", "expired", "failed", "set aside", "untold", "form"]
    told = {name: await rated(site, number) for number, name in enumerate(names)}
    told["another alias's"] = await rated(site, model="second")
    told["untold"] = (await site.chat(best_of=2, seed=77))["id"]
    told["unknown"] = "cmpl-0"
    await set_group(site, told["held out"], is_holdout=True)
    await set_group(site, told["another tenant's"], tenant="other")
    for state in ("erased", "expired", "failed"):
        await set_group(site, told[state], state=state)
    away = {"annotator": (await _annotator(site, told["set aside"]))}
    assert (await say(site, told["fine"], rating="up", user="bob")).status_code == 200
    assert (await site.client.post("/v1/signals/quarantine", json=away)).status_code == 200
    for name in names:
        if name not in {"fine", "set aside", "untold"}:
            await say(site, told[name], rating="up", user="bob")
    sampling = (await group_of(site, told["form"])).sampling
    await set_group(site, told["form"], sampling=sampling | {"json_schema": "{}"})
    found = await results(site, *told.values())
    reasons = {name: one["reason"] for name, one in zip(told, found, strict=True)}
    assert reasons == {
        "fine": None,
        "held out": "not_found",
        "another tenant's": "not_found",
        "erased": "gone",
        "expired": "gone",
        "failed": "not_found",
        "set aside": "set_aside",
        "untold": "not_found",
        "form": "constrained",
        "another alias's": "not_found",
        "unknown": "not_found",
    }
    assert all((one["group"] is None) == (one["reason"] is not None) for one in found)
    counted = site.services.metrics.learner_prompts.labels("default", "not_found")._value.get()
    assert counted == 6


async def _annotator(site: Stack, group: str) -> str:
    page = (await site.client.get("/v1/training/feed", params={"alias": "default"})).json()
    told = next(entry["group"] for entry in page["entries"] if entry["group_id"] == group)
    return str(told["unpaired"][0]["annotator"])


async def test_an_image_that_is_gone_ends_only_its_own_prompt(site: Stack) -> None:
    """The conversation would be another one without it."""
    first = await rated(site)
    second = await rated(site, messages=[{"role": "user", "content": "Hi"}])
    for media in (await group_of(site, first)).media:
        await site.services.blobs.delete(media.sha256)
    assert [one["reason"] for one in await results(site, first, second)] == ["gone", None]


async def test_learners_and_operators_may(open_stack: Opener, tmp_path: Path) -> None:
    """Apps may not, and no page of another site."""
    stack = await open_keyed(open_stack, tmp_path, aliases=opened(tmp_path).aliases)
    taken = await call(stack, "default-learner", "POST", "/v1/training/lease", json={"alias": "default", "owner": "me"})
    body = {"alias": "default", "token": taken.json()["token"], "adapter": "base", "group_ids": ["cmpl-1"]}
    for who, status in (("default-app", 403), ("default-learner", 200), ("default-operator", 200)):
        assert (await call(stack, who, "POST", PATH, json=body)).status_code == status
    page = await call(stack, "default-learner", "POST", PATH, json=body, headers={"sec-fetch-site": "cross-site"})
    assert_openai_error(page, 403, "cross_origin")


async def test_a_lost_lease_gets_nothing(site: Stack) -> None:
    """Neither a replaced holder's, nor one that ran out, nor one of another alias."""
    group = await rated(site)
    other = await lease(site, "second")
    assert_openai_error(await roll(site, group, token=other + 7), 403, "lease_lost", "token")
    mine = await lease(site)
    await site.client.post("/v1/training/lease", json={"alias": "default", "owner": "me", "ttl_s": 1})
    asked = len(site.engine.calls)
    assert_openai_error(await roll(site, group, token=mine + 7), 403, "lease_lost", "token")
    await asyncio.sleep(1.1)
    assert_openai_error(await roll(site, group, token=mine), 403, "lease_lost", "token")
    assert len(site.engine.calls) == asked


async def test_only_the_aliass_own_servable_adapters_answer(site: Stack) -> None:
    """Ephemeral ones too; the base model never stands in for one that the engine cannot load."""
    group = await rated(site)
    await add_adapter(site, "a00001-000000000001", AdapterState.EPHEMERAL)
    await add_adapter(site, "a00002-000000000002", AdapterState.VERIFIED, "second")
    await add_adapter(site, "a00003-000000000003", AdapterState.QUARANTINED)
    for name in ("a00002-000000000002", "a00003-000000000003", "a00009-000000000009"):
        assert_openai_error(await roll(site, group, adapter=name), 404, "model_not_found")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"candidates": 1}, "candidates"),
        ({"candidates": 33}, "candidates"),
        ({"candidates": "6"}, "candidates"),
        ({"group_ids": []}, "group_ids"),
        ({"group_ids": ["a"] * 2}, "group_ids"),
        ({"group_ids": [f"g{number}" for number in range(65)]}, "group_ids"),
        ({"group_ids": ["../x"]}, "group_ids.0"),
        ({"seed": -1}, "seed"),
        ({"temperature": 0.5}, "temperature"),
    ],
)
async def test_bad_requests_are_refused_by_name(site: Stack, changes: dict[str, Any], param: str) -> None:
    """Before anything is generated."""
    reply = await roll(site, "cmpl-1", **changes)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param, reply.text


async def test_an_unknown_alias_is_not_found(site: Stack) -> None:
    assert_openai_error(await roll(site, "cmpl-1", alias="none", token=1), 404, "alias_not_found", "alias")


async def test_an_engine_that_is_away_is_a_reason(site: Stack) -> None:
    """Of the prompts that it failed; the others are answered."""
    first, second = await rated(site, 1), await rated(site, 2)
    token = await lease(site)
    site.engine.fail_next(EngineUnreachable("gone"))
    found = await results(site, first, second, token=token)
    assert sorted(one["reason"] or "" for one in found) == ["", "engine"]


async def test_apps_come_first(open_stack: Opener, tmp_path: Path) -> None:
    """No more prompts at once than the room holds; none begins while apps have much to do; what has no room is told to
    come back, and an app's place in the queue is never taken.
    """
    config = opened(tmp_path).model_copy(update={"rollouts": RolloutsConfig(concurrent=1, queued=1, busy_requests=1)})
    site: Stack = await open_stack(config)
    told = [await rated(site, number) for number in range(4)]
    token = await lease(site)
    site.engine.delay_s = 0.1
    found = await results(site, *told, token=token)
    assert sorted(one["reason"] or "" for one in found) == ["", "", "busy", "busy"]
    assert site.services.admission.present == 0
    chats = [asyncio.create_task(site.chat(seed=number, best_of=1)) for number in range(3)]
    while site.services.admission.present < 3:  # noqa: ASYNC110 - the room has no event for it
        await asyncio.sleep(0.005)
    refused = await roll(site, *told, token=token)
    assert_openai_error(refused, 429, "queue_full")
    assert refused.headers["retry-after"] == "1"
    assert len(await asyncio.gather(*chats)) == 3


async def test_a_learner_that_leaves_frees_its_room(open_stack: Opener, tmp_path: Path) -> None:
    """Its prompts end in the engine."""
    config = opened(tmp_path).model_copy(update={"rollouts": RolloutsConfig(concurrent=1, queued=0)})
    site: Stack = await open_stack(config)
    group = await rated(site)
    token = await lease(site)
    site.engine.delay_s = 30
    asking = asyncio.create_task(roll(site, group, token=token))
    calls = len(site.engine.calls)
    while len(site.engine.calls) == calls:  # noqa: ASYNC110 - nor has the engine
        await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    site.engine.delay_s = 0
    assert (await results(site, group, token=token))[0]["reason"] is None

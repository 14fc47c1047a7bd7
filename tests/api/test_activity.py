"""`GET /v1/activity`: what operators see of the last hours, on each database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from server.config import RuleConfig, ScorerConfig
from tests.api.conftest import Opener, Stack, assert_openai_error, config_for
from tests.api.keyed import call, open_keyed
from tests.api.saying import say

RULES = (
    RuleConfig(name="shouting", kind="pattern", pattern="LOUD", action="flag"),
    RuleConfig(name="secret", kind="pattern", pattern="forbidden word"),
)


async def seen(stack: Stack, **query: Any) -> dict[str, Any]:
    reply = await stack.client.get("/v1/activity", params={"alias": "default", **query})
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_it_tells_of_answers_opinions_and_rewards(each_stack: Stack) -> None:
    """By time and by adapter; an opinion that took the place of another counts once."""
    first = await each_stack.chat(best_of=2, user="ann", plumbline={"compare": True})
    second = await each_stack.chat(best_of=1, seed=5, user="bob")
    chosen, rejected = first["plumbline"]["compare"]
    await say(each_stack, first["id"], chosen=chosen, rejected=rejected, user="ann")
    await say(each_stack, second["id"], rating="down", user="bob")
    await say(each_stack, second["id"], rating="up", user="bob")

    found = await seen(each_stack, hours=2, buckets=4)

    assert found["bucket_s"] == 1800 and found["is_whole"]
    assert [one["at"] - found["since"] for one in found["buckets"]] == [0, 1800, 3600, 5400]
    assert [one["answers"] for one in found["buckets"]][-1] + found["buckets"][-2]["answers"] == 2
    said: dict[str, int] = {}
    for bucket in found["buckets"]:
        said |= bucket["signals"]
    assert said == {"choice": 1, "up": 1}
    assert [(one["adapter"], one["answers"], one["up"], one["down"]) for one in found["adapters"]] == [
        ("base", 2, 1, 0)
    ]
    assert found["feed_head"] > 0
    assert found["learner"] is None


async def test_scorers_are_measured_by_what_people_preferred(open_stack: Opener, tmp_path: Path) -> None:
    """Whoever scores the chosen answer higher agrees, whatever the others say."""
    scorers = (
        ScorerConfig(kind="length", name="short", target_tokens=2),
        ScorerConfig(kind="length", name="lenient", target_tokens=30),
    )
    stack: Stack = await open_stack(config_for(tmp_path, scorers=scorers))
    texts = ("two words", "a good many words of which nobody needs all that are here")
    stack.engine.script = lambda model, prompt, index: texts[index % 2]
    for number in range(3):
        answer = await stack.chat(best_of=2, seed=number * 2, plumbline={"compare": True})
        by_text = {one["message"]["content"]: one["candidate_id"] for one in answer["choices"]}
        await say(stack, answer["id"], chosen=by_text[texts[0]], rejected=by_text[texts[1]])

    shares = {one["scorer"]: (one["share"], one["compared"]) for one in (await seen(stack))["scorers"]}

    assert shares["short"] == (1.0, 3)
    assert shares["lenient"] == (0.5, 3), "a tie is half an agreement"
    assert "ensemble" in shares
    certain = next(one for one in (await seen(stack))["scorers"] if one["scorer"] == "short")
    assert 0.4 < certain["low"] < 1.0 == certain["high"]


async def test_rules_are_measured_by_what_people_say_of_what_they_let_pass(open_stack: Opener, tmp_path: Path) -> None:
    """A flagged answer that people like counts against the flag; of a blocked one nobody can say anything."""
    stack: Stack = await open_stack(config_for(tmp_path, rules=RULES))
    stack.engine.script = lambda model, prompt, index: ("a LOUD answer", "the forbidden word")[index % 2]
    answer = await stack.chat(best_of=2)
    await say(stack, answer["id"], rating="up")

    rules = {one["rule"]: one for one in (await seen(stack))["rules"]}

    assert (rules["shouting"]["applied"], rules["shouting"]["up"], rules["shouting"]["down"]) == ({"flag": 1}, 1, 0)
    assert (rules["secret"]["applied"], rules["secret"]["up"]) == ({"block": 1}, 0)
    assert rules["secret"]["judged"] == 2


async def test_the_learner_is_seen_at_work(stack: Stack) -> None:
    """Who holds the lease, and what it said last."""
    lease = (await stack.client.post("/v1/training/lease", json={"alias": "default", "owner": "gpu-1"})).json()
    beat = {"alias": "default", "token": lease["token"], "phase": "step", "metrics": {"loss": 0.5, "unheard_of": 1.0}}
    assert (await stack.client.post("/v1/training/heartbeat", json=beat)).status_code == 200

    learner = (await seen(stack))["learner"]

    assert (learner["owner"], learner["values"]) == ("gpu-1", {"loss": 0.5})
    assert learner["lease_expires_at"] > learner["heartbeat_at"] > 0


async def test_it_is_for_operators_and_bounded(open_stack: Opener, tmp_path: Path) -> None:
    """No app reads it, and no number of buckets fills the memory."""
    stack = await open_keyed(open_stack, tmp_path)
    for who in ("default-app", "default-learner"):
        assert_openai_error(await call(stack, who, "GET", "/v1/activity?alias=default"), 403, "insufficient_scope")
    for query in ("alias=default&buckets=501", "alias=default&hours=0", "alias=default&hours=nan", "hours=1"):
        refused = await call(stack, "default-operator", "GET", f"/v1/activity?{query}")
        assert refused.status_code == 400, query
    missing = await call(stack, "default-operator", "GET", "/v1/activity?alias=other")
    assert_openai_error(missing, 404, "alias_not_found")

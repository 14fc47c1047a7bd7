"""What people say, on each database: the latest opinion holds, and the reply says whether it can teach."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from server.config import ScorerConfig, SignalsConfig
from tests.api.conftest import Opener, Stack, config_for
from tests.api.saying import head, kept, say, taught


async def test_the_latest_opinion_wins_and_history_stays(each_stack: Stack) -> None:
    """One live opinion of each annotator about each thing; a comparison of any kind replaces the one before."""
    reply = await each_stack.chat(best_of=4, n=3)
    first, second, third = [choice["candidate_id"] for choice in reply["choices"]]
    said: list[dict[str, Any]] = [
        {"chosen": first, "rejected": [second, third]},
        {"ranking": [second, first, third]},
        {"tie": "bad"},
        {"chosen": third, "rejected": first},
        {"rating": "down"},
        {"rating": 0.25, "comment": "after all"},
        {"rating": "up", "candidate_id": second},
        {"comment": "one"},
        {"labels": ["two"]},
        {"comment": "three", "labels": ["four"]},
    ]
    for one in said:
        assert (await say(each_stack, reply["id"], user="ann", **one)).status_code == 200
    assert (await say(each_stack, reply["id"], user="bob", tie="good")).status_code == 200
    rows = await kept(each_stack, reply["id"])
    assert [is_live for _, _, is_live in rows] == [
        False,
        False,
        False,
        True,
        False,
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    assert len({annotator for _, annotator, _ in rows}) == 2
    group = await taught(each_stack, reply["id"])
    assert group is not None
    choices = [pair for pair in group["pairs"] if pair["source"] == "choice"]
    assert [(pair["chosen"], pair["rejected"], pair["weight"]) for pair in choices] == [(third, first, 1.0)]
    thumbs = {one["candidate"]: (one["desirable"], one["weight"]) for one in group["unpaired"]}
    assert thumbs == {first: (True, 0.25), second: (True, 1.0)}


async def test_twenty_opinions_at_once_leave_one_live(each_stack: Stack) -> None:
    """Whatever the order: the last one written holds, and all are history."""
    reply = await each_stack.chat(best_of=1)
    ratings = [("up", "down")[number % 2] for number in range(20)]
    done = await asyncio.gather(*(say(each_stack, reply["id"], user="ann", rating=one) for one in ratings))
    assert {one.status_code for one in done} == {200}
    rows = await kept(each_stack, reply["id"])
    assert len(rows) == 20
    assert sum(is_live for _, _, is_live in rows) == 1
    assert await head(each_stack) == 20


async def test_a_ranking_gives_every_pair(each_stack: Stack) -> None:
    """Each better answer above each worse one, weight 1."""
    reply = await each_stack.chat(best_of=4, n=3)
    order = [choice["candidate_id"] for choice in reply["choices"]][::-1]
    response = await say(each_stack, reply["id"], ranking=order)
    assert response.json()["trainable"] is True
    group = await taught(each_stack, reply["id"])
    assert group is not None
    assert [(one["chosen"], one["rejected"]) for one in group["pairs"]] == [
        (order[0], order[1]),
        (order[0], order[2]),
        (order[1], order[2]),
    ]
    assert {(one["source"], one["weight"]) for one in group["pairs"]} == {("ranking", 1.0)}


@pytest.mark.parametrize(
    ("said", "is_trainable", "is_told"),
    [
        ({"rating": "up"}, True, True),
        ({"correction": "better"}, True, True),
        ({"tie": "good"}, False, True),  # it may have replaced a choice
        ({"comment": "hm"}, False, False),
        ({"labels": ["funny"]}, False, False),
        ({"rating": -0.5, "comment": "hm", "labels": ["a"]}, True, True),
    ],
)
async def test_the_reply_says_what_can_be_trained_on(
    stack: Stack, said: dict[str, Any], is_trainable: bool, is_told: bool
) -> None:
    """Ties and words are kept for people to read; the feed is told where examples may have changed."""
    reply = await stack.chat(best_of=1)
    assert (await say(stack, reply["id"], **said)).json()["trainable"] is is_trainable
    assert await head(stack) == is_told


async def test_the_feed_tells_an_override_from_a_first_word(each_stack: Stack) -> None:
    """What took the place of the same person's earlier opinion, or took it back, is told as an override."""
    earlier = await each_stack.chat(best_of=3, n=2, seed=1, user="ann")
    later = await each_stack.chat(best_of=1, seed=99, user="ann", plumbline={"regenerate_of": earlier["id"]})
    first, second = [choice["candidate_id"] for choice in earlier["choices"]]
    said: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        (earlier, "ann", {"chosen": first, "rejected": second}),
        (earlier, "bob", {"chosen": second, "rejected": first}),
        (earlier, "ann", {"tie": "good"}),
        (earlier, "ann", {"correction": "another"}),
        (earlier, "ann", {"rating": "up", "correction": "and another"}),
        (later, "ann", {"rating": "up"}),
        (later, "ann", {"rating": "down"}),
    ]
    for reply, user, what in said:
        assert (await say(each_stack, reply["id"], user=user, **what)).status_code == 200
    page = (await each_stack.client.get("/v1/training/feed", params={"alias": "default"})).json()
    names = {earlier["id"]: "earlier", later["id"]: "later"}
    assert [(names[one["group_id"]], one["kind"]) for one in page["entries"]] == [
        ("earlier", "signal"),
        ("earlier", "signal"),
        ("earlier", "override"),
        ("earlier", "signal"),
        ("earlier", "override"),
        ("later", "signal"),
        ("earlier", "signal"),
        ("later", "override"),
        ("earlier", "override"),
    ]


async def test_the_feed_tells_of_rewards_where_the_alias_says_so(open_stack: Opener, tmp_path: Path) -> None:
    """Before anybody has spoken, once; and an erasure or an opinion later is told like any other change."""
    signals = SignalsConfig(reward_groups=True, holdout_share=0.0)
    stack = await open_stack(config_for(tmp_path, signals=signals, scorers=[ScorerConfig(kind="logprob")]))
    reply = await stack.chat(best_of=4, user="ann")
    assert await head(stack) == 1
    group = await taught(stack, reply["id"])
    assert group is not None and group["rewarded"] and group["on_policy_sampling"]
    assert len({one["total"] for one in group["candidates"]}) > 1
    assert all(len(one["logprobs"]) == len(one["token_ids"]) for one in group["candidates"])
    assert (group["pairs"], group["unpaired"]) == ([], [])
    cold = await stack.chat(best_of=4, temperature=0.5)
    assert await taught(stack, cold["id"]) is None, "not the distribution whose log-probabilities are logged"
    single = await stack.chat(best_of=1)
    assert await taught(stack, single["id"]) is None
    assert (await stack.client.delete("/v1/users/ann/data")).status_code == 200
    assert await taught(stack, reply["id"]) is None and await head(stack) == 2

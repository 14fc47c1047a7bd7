"""What people say, on each database: the latest opinion holds, once for each key, and in either vocabulary."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from server.config import SignalsConfig
from server.store import feed, groups, idempotency, schema, signals
from server.store.records import GroupRecord, GroupState, SignalKind, SignalRecord
from server.tokens import FeedbackGrant
from tests.api.conftest import Opener, Stack, assert_openai_error, config_for


async def say(stack: Stack, completion: str, *, headers: dict[str, str] | None = None, **said: Any) -> httpx.Response:
    """Feedback, or a preference where something is compared."""
    path = "/v1/preferences" if said.keys() & {"chosen", "ranking", "tie"} else "/v1/feedback"
    return await stack.client.post(path, json={"completion_id": completion, **said}, headers=headers or {})


async def kept(stack: Stack, completion: str) -> list[tuple[str, str, bool]]:
    """(kind, annotator, live) of every signal of a group, oldest first."""
    table = schema.signals
    query = select(table.c.kind, table.c.annotator, table.c.is_live).where(table.c.group_id == completion)
    return await stack.services.database.read(lambda c: [tuple(row) for row in c.execute(query.order_by(table.c.id))])


async def live(stack: Stack, completion: str) -> list[SignalRecord]:
    return (await stack.services.database.read(lambda c: signals.live_signals(c, [completion])))[completion]


async def taught(stack: Stack, completion: str) -> dict[str, Any] | None:
    """The group as the feed's newest entry about it shows it."""
    page = (await stack.client.get("/v1/training/feed", params={"alias": "default", "limit": 1000})).json()
    entries = [one for one in page["entries"] if one["group_id"] == completion]
    return entries[-1]["group"] if entries else None


async def group_of(stack: Stack, completion: str) -> GroupRecord:
    group = await stack.services.database.read(lambda c: groups.get_group(c, completion))
    assert group is not None
    return group


async def set_group(stack: Stack, completion: str, **values: Any) -> None:
    change = update(schema.groups).where(schema.groups.c.id == completion).values(**values)
    await stack.services.database.write(lambda c: c.execute(change))


async def head(stack: Stack) -> int:
    return await stack.services.database.read(lambda c: feed.head(c, "default"))


# --- the latest opinion -----------------------------------------------------------------------------------


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


async def test_a_replaced_correction_is_history(each_stack: Stack) -> None:
    """Both typed answers are kept, each in a place of its own; the learner is told of the last one alone."""
    reply = await each_stack.chat(best_of=1)
    for text in ("first try", "a second one"):
        assert (await say(each_stack, reply["id"], correction=text)).status_code == 200
    stored = await group_of(each_stack, reply["id"])
    typed = [one for one in stored.candidates if one.adapter == "human"]
    assert [one.text for one in typed] == ["first try", "a second one"]
    assert [one.position for one in stored.candidates] == [0, 1, 2]
    group = await taught(each_stack, reply["id"])
    assert group is not None
    assert [pair["chosen"] for pair in group["pairs"]] == [typed[1].id]
    assert typed[0].id not in {one["id"] for one in group["candidates"]}


async def test_what_expires_meanwhile_is_gone(each_stack: Stack) -> None:
    """Between looking and keeping: 410, and nothing is added to the tombstone."""
    reply = await each_stack.chat(best_of=1)
    each_stack.engine.delay_s = 0.2
    saying = asyncio.create_task(say(each_stack, reply["id"], correction="better"))
    await asyncio.sleep(0.1)
    await set_group(each_stack, reply["id"], state=GroupState.EXPIRED)
    assert_openai_error(await saying, 410, "response_expired")
    assert await kept(each_stack, reply["id"]) == []
    assert len((await group_of(each_stack, reply["id"])).candidates) == 1


# --- Idempotency-Key --------------------------------------------------------------------------------------


async def test_one_key_counts_once(each_stack: Stack) -> None:
    """Twenty at once get one reply and leave one signal (I3), corrections and preferences as well as thumbs."""
    reply = await each_stack.chat(best_of=3, n=2)
    first, second = [choice["candidate_id"] for choice in reply["choices"]]
    for number, said in enumerate(
        ({"rating": "up"}, {"correction": "better"}, {"chosen": second, "rejected": first}, {"comment": "x"}), 1
    ):
        headers = {"idempotency-key": f"k{number}"}
        done = await asyncio.gather(*(say(each_stack, reply["id"], headers=headers, **said) for _ in range(20)))
        assert {one.status_code for one in done} == {200}
        assert len({one.text for one in done}) == 1
        assert len(await kept(each_stack, reply["id"])) == number
    assert sum(one.adapter == "human" for one in (await group_of(each_stack, reply["id"])).candidates) == 1


async def test_a_key_with_another_body_is_refused(each_stack: Stack) -> None:
    """422; the first stays. Another person's key is another body."""
    reply, other = await each_stack.chat(best_of=1), await each_stack.chat(best_of=1, seed=None)
    headers = {"idempotency-key": "k"}
    first = await say(each_stack, reply["id"], headers=headers, user="ann", rating="up")
    for completion, said in [
        (reply["id"], {"user": "ann", "rating": "down"}),
        (reply["id"], {"user": "bob", "rating": "up"}),
        (reply["id"], {"user": "ann", "rating": "up", "comment": "x"}),
        (reply["id"], {"user": "ann", "tie": "good"}),
        (other["id"], {"user": "ann", "rating": "up"}),
    ]:
        response = await say(each_stack, completion, headers=headers, **said)
        assert_openai_error(response, 422, "idempotency_mismatch")
    again = await say(each_stack, reply["id"], headers=headers, user="ann", rating="up")
    assert again.json() == first.json()
    assert len(await kept(each_stack, reply["id"])) == 1


async def test_a_key_outlives_its_answer(each_stack: Stack) -> None:
    """Who missed the reply gets it, though the answer has expired meanwhile and the engine is away."""
    reply = await each_stack.chat(best_of=1)
    said: dict[str, Any] = {"headers": {"idempotency-key": "k"}, "rating": "up", "correction": "better"}
    first = await say(each_stack, reply["id"], **said)
    await set_group(each_stack, reply["id"], state=GroupState.EXPIRED)
    each_stack.engine.ready = False
    again = await say(each_stack, reply["id"], **said)
    assert (again.status_code, again.json()) == (200, first.json())
    assert_openai_error(await say(each_stack, reply["id"], rating="up"), 410, "response_expired")


async def test_keys_are_forgotten_a_few_at_a_time(each_stack: Stack) -> None:
    """The oldest first, never one that is young enough; a key that is forgotten is a new one."""
    reply = await each_stack.chat(best_of=1)
    for number in range(5):
        await say(each_stack, reply["id"], headers={"idempotency-key": f"k{number}"}, rating="up")
    table = schema.idempotency
    at = await each_stack.services.database.read(
        lambda c: c.execute(select(table.c.created_at).order_by(table.c.created_at)).scalars().all()
    )
    database = each_stack.services.database
    assert await database.write(lambda c: idempotency.purge(c, at[0], 10)) == 0
    assert await database.write(lambda c: idempotency.purge(c, at[3], 2)) == 2
    assert await database.write(lambda c: idempotency.purge(c, at[3], 2)) == 1
    left = await database.read(lambda c: c.execute(select(table.c.key).order_by(table.c.key)).scalars().all())
    assert left == ["k3", "k4"]
    assert len(await kept(each_stack, reply["id"])) == 5
    again = await say(each_stack, reply["id"], headers={"idempotency-key": "k0"}, rating="down")
    assert again.status_code == 200
    assert len(await kept(each_stack, reply["id"])) == 6


# --- asked again, and then liked --------------------------------------------------------------------------


async def asked_again(stack: Stack, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An answer, and another one to the same question."""
    earlier = await stack.chat(best_of=1, seed=1, user="ann")
    again: dict[str, Any] = {"best_of": 1, "seed": 2, "user": "ann", "plumbline": {"regenerate_of": earlier["id"]}}
    return earlier, await stack.chat(**{**again, **changes})


async def test_the_answer_given_again_is_better_when_it_is_liked(each_stack: Stack) -> None:
    """A weak pair in the earlier group, with the later answer's tokens as they were sampled; the later has a thumb."""
    earlier, later = await asked_again(each_stack)
    assert (await say(each_stack, later["id"], user="ann", rating="up")).status_code == 200
    group = await taught(each_stack, earlier["id"])
    assert group is not None
    (pair,) = group["pairs"]
    assert (pair["source"], pair["weight"], group["unpaired"]) == ("regenerate", 0.25, [])
    assert pair["rejected"] == earlier["choices"][0]["candidate_id"]
    copy = next(one for one in group["candidates"] if one["id"] == pair["chosen"])
    again = await taught(each_stack, later["id"])
    assert again is not None
    assert again["pairs"] == []
    assert [one["desirable"] for one in again["unpaired"]] == [True]
    (sampled,) = again["candidates"]
    assert (copy["token_ids"], copy["logprobs"]) == (sampled["token_ids"], sampled["logprobs"])
    assert again["prompt_token_ids"] == group["prompt_token_ids"]
    (signal,) = await live(each_stack, earlier["id"])
    assert (signal.kind, signal.payload["completion_id"]) == (SignalKind.REGENERATE, later["id"])
    shown = await say(each_stack, earlier["id"], user="ann", candidate_id=pair["chosen"], rating="up")
    assert_openai_error(shown, 400, "invalid_request", "candidate_id")


async def test_a_change_of_mind_withdraws_it(each_stack: Stack) -> None:
    """Down after up: the pair goes, and the feed says so; up again: it is back, with one copy."""
    earlier, later = await asked_again(each_stack)
    for rating, is_there in [("up", True), ("down", False), (0, False), (0.5, True), ("up", True)]:
        await say(each_stack, later["id"], user="ann", rating=rating)
        group = await taught(each_stack, earlier["id"])
        assert (group is not None) is is_there, rating
    assert len((await group_of(each_stack, earlier["id"])).candidates) == 2
    assert [is_live for _, _, is_live in await kept(each_stack, earlier["id"])] == [False, False, True]
    assert await head(each_stack) == 5 + 4  # nothing to tell of the earlier group when nothing changed there


@pytest.mark.parametrize(
    "changes",
    [{"user": "bob"}, {"messages": [{"role": "user", "content": "Something else?"}]}, {"seed": 1}],
    ids=["another person", "another question", "the same answer"],
)
async def test_what_cannot_be_compared_makes_no_pair(stack: Stack, changes: dict[str, Any]) -> None:
    """Both answers must be one person's, to one question, and differ."""
    earlier, later = await asked_again(stack, **changes)
    assert (await say(stack, later["id"], user="ann", rating="up")).status_code == 200
    assert await kept(stack, earlier["id"]) == []
    assert await taught(stack, earlier["id"]) is None


async def test_answers_of_two_adapters_are_not_compared(stack: Stack) -> None:
    """Setting one adapter's signals aside must not leave a copy of its answer to be learned from."""
    earlier, later = await asked_again(stack)
    await set_group(stack, earlier["id"], adapter="000001-other")
    assert (await say(stack, later["id"], user="ann", rating="up")).status_code == 200
    assert await kept(stack, earlier["id"]) == []


async def test_a_refusal_is_never_the_better_answer(stack: Stack) -> None:
    """However much somebody likes it."""
    earlier = await stack.chat(best_of=1, seed=1, user="ann")
    stack.engine.script = lambda model, prompt, index: "the forbidden word"
    later = await stack.chat(best_of=1, seed=2, user="ann", plumbline={"regenerate_of": earlier["id"]})
    assert (await say(stack, later["id"], user="ann", rating="up")).status_code == 200
    assert await kept(stack, earlier["id"]) == []


async def test_a_regeneration_stays_on_its_side_of_the_holdout(open_stack: Opener, tmp_path: Any) -> None:
    """The pair of a held-out question is there for the gate, and never in the feed (I12)."""
    stack = await open_stack(config_for(tmp_path, signals=SignalsConfig(holdout_share=1.0)))
    earlier, later = await asked_again(stack)
    assert (await say(stack, later["id"], user="ann", rating="up")).json()["trainable"] is False
    assert [one.kind for one in await live(stack, earlier["id"])] == [SignalKind.REGENERATE]
    assert await head(stack) == 0


async def test_an_expired_answer_is_not_compared(each_stack: Stack) -> None:
    """The up is kept; nothing is added to a group that is gone."""
    earlier, later = await asked_again(each_stack)
    await set_group(each_stack, earlier["id"], state=GroupState.EXPIRED)
    assert (await say(each_stack, later["id"], user="ann", rating="up")).status_code == 200
    assert await kept(each_stack, earlier["id"]) == []


# --- TensorZero's names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "payload"),
    [
        ({"metric_name": "liked", "value": True}, "rating", {"rating": 1.0, "labels": ["liked"]}),
        ({"metric_name": "liked", "value": False}, "rating", {"rating": -1.0, "labels": ["liked"]}),
        ({"metric_name": "quality", "value": 0.5}, "rating", {"rating": 0.5, "labels": ["quality"]}),
        ({"metric_name": "quality", "value": 1}, "rating", {"rating": 1.0, "labels": ["quality"]}),
        ({"metric_name": "quality", "value": 0}, "rating", {"rating": 0.0, "labels": ["quality"]}),
        ({"metric_name": "comment", "value": "nice"}, "comment", {"comment": "nice"}),
        ({"metric_name": "demonstration", "value": "so"}, "correction", {}),
        (
            {"metric_name": "liked", "value": True, "tags": {"screen": "home"}, "episode_id": None, "dryrun": False},
            "rating",
            {"rating": 1.0, "labels": ["liked", "screen=home"]},
        ),
        (
            {"metric_name": "comment", "value": "hm", "tags": {"a": "b"}},
            "comment",
            {"comment": "hm", "labels": ["a=b"]},
        ),
    ],
)
async def test_tensorzero_s_feedback_is_understood(
    stack: Stack, said: dict[str, Any], kind: str, payload: dict[str, Any]
) -> None:
    """Metrics are ratings, `comment` and `demonstration` what they are with us; names and tags stay as labels."""
    reply = await stack.chat(best_of=1)
    body = {"inference_id": reply["id"], "user": "ann", **said}
    response = await stack.client.post("/v1/feedback", json=body)
    assert response.status_code == 200, response.text
    (signal,) = await live(stack, reply["id"])
    assert signal.kind == kind
    assert signal.annotator == stack.services.signer.user_hash("default", "ann")
    rest = {name: value for name, value in signal.payload.items() if name not in {"candidate_id", "correction_id"}}
    assert rest == payload


async def test_both_vocabularies_are_one_opinion(stack: Stack) -> None:
    """The same in other words replaces what was said, and shares its key's reply."""
    reply = await stack.chat(best_of=1)
    ours = {"completion_id": reply["id"], "rating": "up", "labels": ["liked"]}
    theirs = {"inference_id": reply["id"], "metric_name": "liked", "value": True}
    headers = {"idempotency-key": "k"}
    done = [await stack.client.post("/v1/feedback", json=body, headers=headers) for body in (ours, theirs)]
    assert done[0].json() == done[1].json()
    await stack.client.post("/v1/feedback", json={**theirs, "value": False})
    assert [is_live for _, _, is_live in await kept(stack, reply["id"])] == [False, True]


# --- feedback tokens --------------------------------------------------------------------------------------


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Plumbline-Feedback {token}"}


async def test_a_token_speaks_for_its_user_alone(stack: Stack) -> None:
    """Nobody else's name, in whichever vocabulary; the opinion is the user's own, as with a key."""
    reply = await stack.chat(best_of=1, user="ann")
    headers = bearer(reply["plumbline"]["feedback_token"])
    for user in (None, "ann"):
        said = {"user": user} if user else {}
        assert (await say(stack, reply["id"], headers=headers, rating="up", **said)).status_code == 200
    foreign = await say(stack, reply["id"], headers=headers, rating="down", user="bob")
    assert_openai_error(foreign, 403, "insufficient_scope", "user")
    theirs = {"inference_id": reply["id"], "metric_name": "liked", "value": False, "user": "bob"}
    assert_openai_error(
        await stack.client.post("/v1/feedback", json=theirs, headers=headers), 403, "insufficient_scope", "user"
    )
    assert (await say(stack, reply["id"], rating="down", user="ann")).status_code == 200
    assert {annotator for _, annotator, _ in await kept(stack, reply["id"])} == {
        stack.services.signer.user_hash("default", "ann")
    }


async def test_a_token_of_nobody_names_nobody(stack: Stack) -> None:
    """An answer that was given to no named user: its bearer speaks as that answer's reader."""
    reply = await stack.chat(best_of=1)
    headers = bearer(reply["plumbline"]["feedback_token"])
    assert_openai_error(
        await say(stack, reply["id"], headers=headers, rating="up", user="ann"), 403, "insufficient_scope", "user"
    )
    assert (await say(stack, reply["id"], headers=headers, rating="up")).status_code == 200
    assert [annotator for _, annotator, _ in await kept(stack, reply["id"])] == [f"answer:{reply['id']}"]


async def test_a_token_judges_what_was_shown(stack: Stack) -> None:
    """Hidden candidates are out of reach, and so is every other answer."""
    reply, other = await stack.chat(best_of=4, n=2), await stack.chat(best_of=1, seed=None)
    headers = bearer(reply["plumbline"]["feedback_token"])
    shown = {choice["candidate_id"] for choice in reply["choices"]}
    hidden = next(f"{reply['id']}.{number}" for number in range(4) if f"{reply['id']}.{number}" not in shown)
    response = await say(stack, reply["id"], headers=headers, candidate_id=hidden, rating="up")
    assert_openai_error(response, 400, "invalid_request", "candidate_id")
    response = await say(stack, other["id"], headers=headers, rating="up")
    assert_openai_error(response, 403, "insufficient_scope", "completion_id")
    response = await say(stack, other["id"], headers=headers, tie="good")
    assert_openai_error(response, 403, "insufficient_scope", "completion_id")


async def test_tokens_cannot_be_made_or_kept_for_ever(stack: Stack) -> None:
    """Expired, changed in any place, or made with another secret: 401, and nothing is kept."""
    reply = await stack.chat(best_of=1, user="ann")
    token, signer = reply["plumbline"]["feedback_token"], stack.services.signer
    body, _, mac = token.partition(".")
    grant = FeedbackGrant(reply["id"], "default", None)
    swapped = signer.sign(FeedbackGrant("cmpl-other", "default", None), 2e9).partition(".")[0]
    bad = [
        signer.sign(grant, 1.0),
        f"{body}.",
        f".{mac}",
        body,
        f"{swapped}.{mac}",
        f"{body}.{mac[:-2]}{'AA' if mac[-2:] != 'AA' else 'BB'}",
        f"{body}.{mac}.{mac}",
        f"{'A' if body[0] != 'A' else 'B'}{body[1:]}.{mac}",
        "x" * 5_000,
        "",
        "' OR 1=1 --",
    ]
    for one in bad:
        response = await say(stack, reply["id"], headers=bearer(one), rating="up")
        assert_openai_error(response, 401, "invalid_feedback_token")
    assert await kept(stack, reply["id"]) == []
    assert (await say(stack, reply["id"], headers=bearer(token), rating="up")).status_code == 200

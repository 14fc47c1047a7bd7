"""What people say is kept once, counts once, and reaches the learner in order."""

import asyncio
from typing import Any

from tests.api.conftest import Stack, assert_openai_error, config_for


async def feed(stack: Stack, after: int = 0) -> dict[str, Any]:
    response = await stack.client.get("/v1/training/feed", params={"alias": "default", "after": after})
    assert response.status_code == 200, response.text
    return response.json()


async def post(stack: Stack, path: str, body: dict[str, Any], **headers: str) -> Any:
    return await stack.client.post(path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def compared(stack: Stack) -> tuple[dict[str, Any], list[str]]:
    reply = await stack.chat(best_of=4, plumbline={"compare": True})
    ids = reply["plumbline"]["compare"]
    assert len(ids) == 2
    return reply, ids


async def test_a_choice_becomes_a_pair(stack: Stack) -> None:
    """Chosen over rejected, weight 1, with the tokens that were sampled."""
    reply, (first, second) = await compared(stack)
    body = {"completion_id": reply["id"], "chosen": second, "rejected": first, "user": "ann"}
    assert (await post(stack, "/v1/preferences", body)).json()["trainable"] is True
    group = (await feed(stack))["entries"][-1]["group"]
    (pair,) = group["pairs"]
    assert (pair["chosen"], pair["rejected"], pair["source"], pair["weight"]) == (second, first, "choice", 1.0)
    assert pair["annotator"] != "ann"
    assert {one["id"] for one in group["candidates"]} >= {first, second}


async def test_a_tie_is_kept_and_not_trained_on(stack: Stack) -> None:
    """Ties calibrate; they make no pair."""
    reply, _ = await compared(stack)
    assert (await post(stack, "/v1/preferences", {"completion_id": reply["id"], "tie": "good"})).status_code == 200
    assert (await feed(stack))["entries"][-1]["group"] is None


async def test_the_latest_opinion_of_a_user_wins(stack: Stack) -> None:
    """A change of mind replaces the earlier pair; another user's stays beside it."""
    reply, (first, second) = await compared(stack)
    for chosen, rejected, user in [(first, second, "ann"), (second, first, "ann"), (first, second, "bob")]:
        body = {"completion_id": reply["id"], "chosen": chosen, "rejected": rejected, "user": user}
        await post(stack, "/v1/preferences", body)
    pairs = (await feed(stack))["entries"][-1]["group"]["pairs"]
    assert sorted(pair["chosen"] for pair in pairs) == sorted([first, second])


async def test_a_thumb_is_an_unpaired_example(stack: Stack) -> None:
    """Up is desirable, down is not; a grade keeps its strength."""
    reply = await stack.chat(best_of=1)
    await post(stack, "/v1/feedback", {"completion_id": reply["id"], "rating": "down"})
    (one,) = (await feed(stack))["entries"][-1]["group"]["unpaired"]
    assert (one["desirable"], one["weight"]) == (False, 1.0)
    await post(stack, "/v1/feedback", {"completion_id": reply["id"], "rating": 0.5})
    (one,) = (await feed(stack))["entries"][-1]["group"]["unpaired"]
    assert (one["desirable"], one["weight"]) == (True, 0.5)


async def test_a_correction_beats_the_shown_answer(stack: Stack) -> None:
    """The typed text becomes a candidate with the engine's tokens, chosen over what was shown."""
    reply = await stack.chat(best_of=1)
    await post(stack, "/v1/feedback", {"completion_id": reply["id"], "correction": "a better answer"})
    group = (await feed(stack))["entries"][-1]["group"]
    (pair,) = group["pairs"]
    human = next(one for one in group["candidates"] if one["adapter"] == "human")
    assert pair["chosen"] == human["id"]
    assert len(human["token_ids"]) == 3


async def test_blocked_candidates_teach_without_anyone_speaking(stack: Stack) -> None:
    """A safety verdict makes blocked ≺ clean, at once."""
    stack.engine.script = lambda model, prompt, index: "the forbidden word" if index == 1 else None
    await stack.chat(best_of=3)
    (pair,) = (await feed(stack))["entries"][-1]["group"]["pairs"]
    assert pair["source"] == "safety"
    assert pair["rejected"].endswith(".1")


async def test_idempotency_keys_make_feedback_exactly_once(stack: Stack) -> None:
    """The same key and body give the same answer and one signal; another body is refused (I3)."""
    reply = await stack.chat(best_of=1)
    body = {"completion_id": reply["id"], "rating": "up"}
    replies = await asyncio.gather(*(post(stack, "/v1/feedback", body, Idempotency_Key="k1") for _ in range(20)))
    assert len({one.json()["id"] for one in replies}) == 1
    assert len((await feed(stack))["entries"]) == 1
    other = await post(stack, "/v1/feedback", {**body, "rating": "down"}, Idempotency_Key="k1")
    assert_openai_error(other, 422, "idempotency_mismatch")


async def test_feedback_that_races_its_answer_finds_it(stack: Stack) -> None:
    """The group is durable before the answer ends, so feedback straight after it always lands."""

    async def answer_and_rate() -> int:
        reply = await stack.chat(best_of=1, seed=None)
        return (await post(stack, "/v1/feedback", {"completion_id": reply["id"], "rating": "up"})).status_code

    assert set(await asyncio.gather(*(answer_and_rate() for _ in range(20)))) == {200}


async def test_a_feedback_token_is_good_for_its_answer_alone(stack: Stack) -> None:
    """A browser needs no key; its token says nothing about other answers, and cannot be forged."""
    mine, other = await stack.chat(user="ann"), await stack.chat()
    token = mine["plumbline"]["feedback_token"]
    rate = {"completion_id": mine["id"], "rating": "up"}
    bearer = f"Plumbline-Feedback {token}"
    assert (await post(stack, "/v1/feedback", rate, Authorization=bearer)).status_code == 200
    foreign = await post(stack, "/v1/feedback", {**rate, "completion_id": other["id"]}, Authorization=bearer)
    assert_openai_error(foreign, 403, "insufficient_scope")
    forged = await post(stack, "/v1/feedback", rate, Authorization=bearer[:-2] + "xx")
    assert_openai_error(forged, 401, "invalid_feedback_token")


async def test_only_shown_answers_can_be_judged(stack: Stack) -> None:
    """Unknown completions are 404; candidates that were not shown, or are no candidates, are 400."""
    reply, (first, _) = await compared(stack)
    shown = set(reply["plumbline"]["compare"])
    hidden = next(f"{reply['id']}.{i}" for i in range(4) if f"{reply['id']}.{i}" not in shown)
    unknown = await post(stack, "/v1/feedback", {"completion_id": "cmpl-unknown", "rating": "up"})
    assert_openai_error(unknown, 404, "response_not_found")
    for bad in (hidden, "cmpl-x.0"):
        body = {"completion_id": reply["id"], "chosen": first, "rejected": bad}
        assert_openai_error(await post(stack, "/v1/preferences", body), 400, "invalid_request", "rejected")


async def test_holdout_never_leaves(open_stack: Any, tmp_path: Any) -> None:
    """What is kept for the gate is never in the feed (I12)."""
    from server.config import SignalsConfig

    stack = await open_stack(config_for(tmp_path, signals=SignalsConfig(holdout_share=1.0)))
    reply = await stack.chat(best_of=1)
    said = await post(stack, "/v1/feedback", {"completion_id": reply["id"], "rating": "up"})
    assert said.json()["trainable"] is False
    assert (await feed(stack))["entries"] == []


async def test_the_feed_resumes_where_it_was_left(stack: Stack) -> None:
    """Entries come in order, once, from any point on."""
    for _ in range(5):
        reply = await stack.chat(best_of=1, seed=None)
        await post(stack, "/v1/feedback", {"completion_id": reply["id"], "rating": "up"})
    whole = await feed(stack)
    assert [one["seq"] for one in whole["entries"]] == [1, 2, 3, 4, 5]
    assert (whole["next"], whole["head"]) == (5, 5)
    assert [one["seq"] for one in (await feed(stack, after=3))["entries"]] == [4, 5]


async def test_signals_survive_a_restart(open_stack: Any, tmp_path: Any) -> None:
    """What was acknowledged is there when the service comes back (I1)."""
    stack = await open_stack(config_for(tmp_path / "state"))
    reply = await stack.chat(best_of=1)
    await post(stack, "/v1/feedback", {"completion_id": reply["id"], "rating": "up"})
    before = (await feed(stack))["entries"]
    await stack.services.database.close()
    import shutil

    shutil.copytree(tmp_path / "state", tmp_path / "again")
    stack.engine.closed = False
    again = await open_stack(config_for(tmp_path / "again"))
    assert (await feed(again))["entries"] == before

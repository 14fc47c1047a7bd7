"""Asked again, and then liked, on each database: the later answer is weakly better than the earlier one."""

from __future__ import annotations

from typing import Any

import pytest

from server.config import SignalsConfig
from server.store.records import GroupState, SignalKind
from tests.api.conftest import Opener, Stack, assert_openai_error, config_for
from tests.api.saying import group_of, head, kept, live, say, set_group, taught


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

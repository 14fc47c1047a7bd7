"""Idempotency-Key on feedback, on each database: once for each key."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import select

from server.store import idempotency, schema
from server.store.records import GroupState
from tests.api.conftest import Stack, assert_openai_error
from tests.api.saying import group_of, kept, say, set_group


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

"""An answer's feedback token: good for that answer and user, and nothing else."""

from __future__ import annotations

from server.tokens import FeedbackGrant
from tests.api.conftest import Stack, assert_openai_error
from tests.api.saying import kept, say


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

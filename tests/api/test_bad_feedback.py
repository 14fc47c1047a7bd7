"""Bad feedback gets a clear refusal in the one shape, leaves nothing behind, and the next good one is kept."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from server.config import SignalsConfig
from server.engine.fake import FakeEngine
from server.store import schema
from server.store.records import GroupState
from tests.api.conftest import Opener, Stack, assert_openai_error, config_for

FEEDBACK, PREFERENCES = "/v1/feedback", "/v1/preferences"
MEGABYTE = "x" * 1_000_000
ID = "{id}"
"""Stands for the completion's id."""
OTHER = "{other}"
"""Stands for another completion's id."""


@pytest.fixture(autouse=True)
def third_is_blocked(engine: FakeEngine) -> None:
    """So that of three candidates the first two are shown."""
    engine.script = lambda model, prompt, index: "the forbidden word" if index == 2 else None


async def count(stack: Stack) -> int:
    return await stack.services.database.read(
        lambda c: c.execute(select(func.count()).select_from(schema.signals)).scalar_one()
    )


async def good(stack: Stack, completion: str) -> None:
    """A choice between two shown answers is taken as ever."""
    body = {"completion_id": completion, "chosen": f"{completion}.0", "rejected": f"{completion}.1"}
    response = await stack.client.post(PREFERENCES, json=body)
    assert response.status_code == 200, response.text


async def refused(stack: Stack, path: str, content: dict[str, Any] | str) -> httpx.Response:
    """The refusal, after which nothing was kept and a good request works."""
    mine, other = [await stack.chat(best_of=3, n=2, seed=None) for _ in range(2)]

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(one) for one in value]
        return value.replace(ID, mine["id"]).replace(OTHER, other["id"]) if isinstance(value, str) else value

    if isinstance(content, str):
        headers = {"content-type": "application/json"}
        response = await stack.client.post(path, content=filled(content).encode(), headers=headers)
    else:
        body = {name: filled(value) for name, value in {"completion_id": ID, **content}.items() if value is not ...}
        response = await stack.client.post(path, json=body)
    assert "x" * 100 not in response.text
    assert await count(stack) == 0
    await good(stack, mine["id"])
    return response


Row = tuple[str, dict[str, Any] | str, int, str, str | None]


def about(completion_id: Any) -> Row:
    return (FEEDBACK, {"completion_id": completion_id, "rating": "up"}, 400, "invalid_request", "completion_id")


def feedback(param: str | None, code: str = "invalid_request", **said: Any) -> Row:
    return (FEEDBACK, said, 400, code, param)


def preference(param: str | None, code: str = "invalid_request", **said: Any) -> Row:
    return (PREFERENCES, said, 400, code, param)


def tensorzero(param: str | None, code: str = "invalid_request", **said: Any) -> Row:
    return (FEEDBACK, {"completion_id": ..., "inference_id": ID, **said}, 400, code, param)


def raw(said: str, status: int, code: str, param: str | None = None) -> Row:
    return (FEEDBACK, f'{{"completion_id": "{ID}", {said}}}', status, code, param)


CASES: dict[str, Row] = {
    # whose answer
    "unknown id": (
        FEEDBACK,
        {"completion_id": "cmpl-none", "rating": "up"},
        404,
        "response_not_found",
        "completion_id",
    ),
    "unknown id, compared": (
        PREFERENCES,
        {"completion_id": "cmpl-none", "tie": "good"},
        404,
        "response_not_found",
        None,
    ),
    "SQL as an id": about("' OR 1=1; DROP TABLE signals --"),
    "SQL as a tail": about(f"{ID}' --"),
    "path as an id": about("../../etc/passwd"),
    "id of 1 MB": about(MEGABYTE),
    "empty id": about(""),
    "id with a line end": about(f"{ID}\n"),
    "number as an id": about(5),
    "no id": (FEEDBACK, {"completion_id": ..., "rating": "up"}, 400, "invalid_request", "completion_id"),
    # which answer
    "candidate that is no id": feedback("candidate_id", candidate_id="a b", rating="up"),
    "candidate of 1 MB": feedback("candidate_id", candidate_id=MEGABYTE, rating="up"),
    "index beyond n": feedback("candidate_id", candidate_id=f"{ID}.64", rating="up"),
    "candidate that was not shown": feedback("candidate_id", candidate_id=f"{ID}.2", rating="up"),
    "another answer's candidate": feedback("candidate_id", candidate_id=f"{OTHER}.0", rating="up"),
    "the completion as a candidate": feedback("candidate_id", candidate_id=ID, rating="up"),
    # ratings
    "nothing said": feedback(None),
    "only a user": feedback(None, user="ann"),
    "rating 6": feedback("rating", rating=6),
    "rating 6/5": feedback("rating", rating="6/5"),
    "rating a little above 1": feedback("rating", rating=1.0000001),
    "rating a word": feedback("rating", rating="good"),
    "rating a number in quotes": feedback("rating", rating="0.5"),
    "rating true": feedback("rating", rating=True),
    "rating a list": feedback("rating", rating=[1]),
    "rating NaN": raw('"rating": NaN', 400, "invalid_request"),
    "rating Infinity": raw('"rating": Infinity', 400, "invalid_request"),
    "rating 1e999": raw('"rating": 1e999', 400, "invalid_request"),
    # texts
    "comment of 1 MB": feedback("comment", comment=MEGABYTE),
    "correction of 1 MB": feedback("correction", correction=MEGABYTE),
    "empty correction": feedback("correction", correction=""),
    "17 labels": feedback("labels", labels=["a"] * 17),
    "label of 1 MB": feedback("labels.0", labels=[MEGABYTE]),
    "user of 1 MB": feedback("user", user=MEGABYTE, rating="up"),
    "empty user": feedback("user", user="", rating="up"),
    "NUL in a comment": feedback("comment", "invalid_encoding", comment="a\0b"),
    "NUL in a correction": feedback("correction", "invalid_encoding", correction="a\0b"),
    "NUL in a label": feedback("labels.0", "invalid_encoding", labels=["\0"]),
    "NUL in a user": feedback("user", "invalid_encoding", user="\0", rating="up"),
    "lone surrogate": raw('"comment": "\\ud800"', 400, "invalid_encoding"),
    "no JSON": raw('"comment"', 400, "invalid_json"),
    # fields
    "time of the client's": feedback("created_at", "unknown_parameter", rating="up", created_at=0),
    "unknown field": feedback("stars", "unknown_parameter", rating="up", stars=5),
    "a preference as feedback": feedback("chosen", "unknown_parameter", chosen=f"{ID}.0", rejected=f"{ID}.1"),
    # comparisons
    "nothing compared": preference(None),
    "chosen without rejected": preference(None, chosen=f"{ID}.0"),
    "rejected without chosen": preference(None, rejected=f"{ID}.0"),
    "chosen is rejected": preference(None, chosen=f"{ID}.0", rejected=f"{ID}.0"),
    "chosen is among the rejected": preference(None, chosen=f"{ID}.0", rejected=[f"{ID}.1", f"{ID}.0"]),
    "rejected empty": preference("rejected", chosen=f"{ID}.0", rejected=[]),
    "choice and tie": preference(None, chosen=f"{ID}.0", rejected=f"{ID}.1", tie="good"),
    "choice and ranking": preference(None, chosen=f"{ID}.0", rejected=f"{ID}.1", ranking=[f"{ID}.0", f"{ID}.1"]),
    "tie of a third kind": preference("tie", tie="so so"),
    "ranking of one": preference("ranking", ranking=[f"{ID}.0"]),
    "ranking with a double": preference(None, ranking=[f"{ID}.0", f"{ID}.0"]),
    "ranking of 65": preference("ranking", ranking=[f"{ID}.{number}" for number in range(65)]),
    "rejected index beyond n": preference("rejected", chosen=f"{ID}.0", rejected=f"{ID}.64"),
    "chosen that was not shown": preference("chosen", chosen=f"{ID}.2", rejected=f"{ID}.1"),
    "ranking with another answer's": preference("ranking", ranking=[f"{ID}.0", f"{OTHER}.0"]),
    "an answer's text as a candidate": preference("chosen", chosen="a red cup", rejected=f"{ID}.1"),
    "comparison with a client's time": preference("created_at", "unknown_parameter", tie="good", created_at=2e9),
    # TensorZero's names
    "both vocabularies": (
        FEEDBACK,
        {"inference_id": ID, "metric_name": "liked", "value": True},
        400,
        "invalid_request",
        None,
    ),
    "rating and value": tensorzero(None, metric_name="liked", value=True, rating="up"),
    "no metric": tensorzero("metric_name", value=True),
    "no value": tensorzero("value", metric_name="liked"),
    "metric of 2": tensorzero("value", metric_name="liked", value=2),
    "metric that is a text": tensorzero("value", metric_name="liked", value="yes"),
    "comment that is no text": tensorzero("value", metric_name="comment", value=True),
    "demonstration of nothing": tensorzero("correction", metric_name="demonstration", value=""),
    "16 tags": tensorzero("tags", metric_name="liked", value=True, tags={str(n): "x" for n in range(16)}),
    "tags that are no texts": tensorzero("tags", metric_name="liked", value=True, tags={"a": 1}),
    "bad inference id": (
        FEEDBACK,
        {"completion_id": ..., "inference_id": "a b"},
        400,
        "invalid_request",
        "inference_id",
    ),
    "an episode": tensorzero("episode_id", metric_name="liked", value=True, episode_id="e"),
    "dry run": tensorzero("dryrun", metric_name="liked", value=True, dryrun=True),
    "unknown TensorZero field": tensorzero("score", "unknown_parameter", metric_name="liked", value=True, score=1),
}


@pytest.mark.parametrize("row", CASES.values(), ids=CASES.keys())
async def test_bad_feedback_is_refused_and_the_next_is_kept(stack: Stack, row: Row) -> None:
    """Each row: a clear refusal that says what was wrong and quotes nothing, then a good request."""
    path, content, status, code, param = row
    assert_openai_error(await refused(stack, path, content), status, code, param)


@pytest.mark.parametrize("state", [GroupState.EXPIRED, GroupState.ERASED])
@pytest.mark.parametrize(("path", "said"), [(FEEDBACK, {"rating": "up"}), (PREFERENCES, {"tie": "bad"})])
async def test_what_is_no_longer_kept_is_gone_for_good(
    stack: Stack, state: GroupState, path: str, said: dict[str, Any]
) -> None:
    """410 that clients do not repeat, and nothing is kept."""
    reply = await stack.chat(best_of=3, n=2)
    await stack.services.database.write(
        lambda c: c.execute(update(schema.groups).where(schema.groups.c.id == reply["id"]).values(state=state))
    )
    response = await stack.client.post(path, json={"completion_id": reply["id"], **said})
    assert_openai_error(response, 410, "response_expired", "completion_id")
    assert response.headers["x-should-retry"] == "false"
    assert await count(stack) == 0
    await good(stack, (await stack.chat(best_of=3, n=2))["id"])


async def test_a_flood_of_feedback_is_stopped(store_url: str, open_stack: Opener, tmp_path: Any) -> None:
    """Each annotator has so much an hour: 429 with the time to wait; others, and what was kept before, are not hurt."""
    settings = SignalsConfig(holdout_share=0.0, max_per_hour=5)
    stack = await open_stack(config_for(tmp_path, url=store_url, signals=settings))
    reply = await stack.chat(best_of=3, n=2)

    async def rate(user: str | None, key: str) -> httpx.Response:
        body = {"completion_id": reply["id"], "rating": "up", **({"user": user} if user else {})}
        return await stack.client.post(FEEDBACK, json=body, headers={"idempotency-key": key})

    kept = [await rate("ann", f"k{number}") for number in range(5)]
    assert {one.status_code for one in kept} == {200}
    for number in range(5, 8):
        response = await rate("ann", f"k{number}")
        assert_openai_error(response, 429, "rate_limited")
        assert 3590 < int(response.headers["retry-after"]) <= 3600
    assert (await rate("ann", "k0")).json() == kept[0].json()
    assert (await rate("bob", "b0")).status_code == 200
    assert await count(stack) == 6
    earlier = update(schema.signals).where(schema.signals.c.id == kept[0].json()["id"])
    await stack.services.database.write(
        lambda c: c.execute(earlier.values(created_at=schema.signals.c.created_at - 3600))
    )
    assert (await rate("ann", "k9")).status_code == 200
    assert (await rate("ann", "k10")).status_code == 429
    later = update(schema.signals).values(created_at=schema.signals.c.created_at + 86_400)
    await stack.services.database.write(lambda c: c.execute(later))
    assert (await rate("ann", "k11")).status_code == 200, "a clock that was set back locks nobody out"
    await good(stack, reply["id"])


async def test_a_hostile_comment_is_only_a_text(stack: Stack) -> None:
    """Kept as it came; what shows it has to escape it."""
    reply = await stack.chat(best_of=3, n=2)
    comment = "<script>alert(1)</script> '; DROP TABLE signals; -- \x1b[31m \u202e"
    response = await stack.client.post(FEEDBACK, json={"completion_id": reply["id"], "comment": comment})
    assert response.status_code == 200
    assert response.json()["trainable"] is False
    (payload,) = await stack.services.database.read(
        lambda c: c.execute(select(schema.signals.c.payload)).scalars().all()
    )
    assert payload["comment"] == comment
    await good(stack, reply["id"])

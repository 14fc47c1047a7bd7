"""A reward model behind pooling routes: what is sent, what comes back, what is kept."""

from __future__ import annotations

import math
from typing import Any

import pytest

from server.config.scorers import PoolingConfig
from server.json_endpoint import JsonEndpoint
from server.scorers.errors import ScorerError
from server.scorers.pooling import PoolingScorer
from tests.server.scorers.endpoint import PROMPT, Endpoint, answers, endpoint_that


def pooling(endpoint: Endpoint, **settings: Any) -> PoolingScorer:
    config = PoolingConfig.model_validate({"url": endpoint.url, "model": "rm", **settings})
    return PoolingScorer(config, JsonEndpoint(config.url, "", max_connections=8, timeout_s=5))


def length_of_the_answer(body: dict[str, Any]) -> Any:
    """As vLLM answers on each route."""
    if "documents" in body:
        entries = [{"index": place, "score": len(text)} for place, text in enumerate(body["documents"])]
        return {"data": entries[::-1]}
    value = float(len(body["messages"][-1]["content"]))
    return {"data": [{"index": 0, "probs": [value, 9.0], "data": [value, 9.0]}]}


@pytest.mark.parametrize("route", ["classify", "pooling", "score"])
async def test_each_route_gives_one_score_for_each_answer(route: str) -> None:
    """In order, equal answers once, kept for later calls."""
    async with endpoint_that(length_of_the_answer) as endpoint:
        scorer = pooling(endpoint, route=route)
        assert await scorer.score(PROMPT, answers("a", "bbb", "a")) == [1.0, 3.0, 1.0]
        asked = len(endpoint.bodies)
        assert asked == (1 if route == "score" else 2)
        assert await scorer.score(PROMPT, answers("bbb")) == [3.0]
        assert len(endpoint.bodies) == asked
    assert set(endpoint.paths) == {f"/{route}"}
    assert all(body["model"] == "rm" and body["use_activation"] is False for body in endpoint.bodies)


async def test_the_conversation_ends_with_the_answer() -> None:
    """Images as the engine gets them, or left out."""
    async with endpoint_that(length_of_the_answer) as endpoint:
        await pooling(endpoint).score(PROMPT, answers("a"))
        await pooling(endpoint, images=False).score(PROMPT, answers("a"))
        await pooling(endpoint, route="score").score(PROMPT, answers("a"))
    shown, plain, crossed = endpoint.bodies
    assert shown["messages"][-1] == {"role": "assistant", "content": "a"}
    assert [part["type"] for part in shown["messages"][0]["content"]] == ["image_url", "text"]
    assert plain["messages"][0] == {"role": "user", "content": "What is it?"}
    assert [part["type"] for part in crossed["queries"]["content"]] == ["image_url", "text"]


async def test_another_output_can_be_the_score() -> None:
    """One that the model does not have is an error."""
    async with endpoint_that(length_of_the_answer) as endpoint:
        assert await pooling(endpoint, output=1).score(PROMPT, answers("a")) == [9.0]
        with pytest.raises(ScorerError, match="no output 2"):
            await pooling(endpoint, output=2).score(PROMPT, answers("a"))


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"data": []},
        {"data": [{"index": 1, "probs": [1.0]}]},
        {"data": [{"index": 0, "probs": "1"}]},
        {"data": [{"index": 0, "probs": ["1"]}]},
        {"data": [{"index": 0, "probs": [True]}]},
        {"data": [7]},
    ],
)
async def test_a_reply_in_another_shape_is_an_error(reply: Any) -> None:
    """Never a number by chance."""
    async with endpoint_that(lambda body: reply) as endpoint:
        with pytest.raises(ScorerError):
            await pooling(endpoint).score(PROMPT, answers("a"))


async def test_what_is_no_number_is_not_kept() -> None:
    """The next call asks again."""
    values = [math.nan, 2.0]
    async with endpoint_that(lambda body: {"data": [{"index": 0, "probs": [values.pop(0)]}]}) as endpoint:
        scorer = pooling(endpoint)
        (first,) = await scorer.score(PROMPT, answers("a"))
        assert first is not None
        assert math.isnan(first)
        assert await scorer.score(PROMPT, answers("a")) == [2.0]

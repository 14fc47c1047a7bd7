"""TensorZero's names for feedback."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Stack
from tests.api.saying import kept, live


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

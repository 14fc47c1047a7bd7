"""What one tenant has does not exist for another. Every route of the API stands in a table here, or the test fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from server.api.openapi import document
from tests.api.conftest import CHAT, Opener, Stack, chat_body
from tests.api.keyed import call, open_keyed

MADE_UP = "cmpl-" + "0" * 32

OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
"""No key, no ids."""

LISTS = {("GET", "/v1/models"), ("GET", "/v1/models/{model}")}
"""For apps, without ids of anything that a tenant has."""

BOUND: dict[tuple[str, str], list[Any]] = {
    ("POST", CHAT): [
        lambda known: chat_body(best_of=1, plumbline={"regenerate_of": known}),
    ],
    ("POST", "/v1/feedback"): [
        lambda known: {"completion_id": known, "rating": "up"},
        lambda known: {"completion_id": known, "candidate_id": f"{known}.0", "comment": "mine?"},
        lambda known: {"inference_id": known, "metric_name": "good", "value": True},
    ],
    ("POST", "/v1/preferences"): [
        lambda known: {"completion_id": known, "chosen": f"{known}.0", "rejected": f"{known}.1"},
        lambda known: {"completion_id": known, "tie": "good"},
    ],
}
"""For apps, with bodies that name something of a tenant's."""

STAFF = {
    ("GET", "/v1/preferences"),
    ("POST", "/v1/import"),
    ("GET", "/v1/training/config"),
    ("POST", "/v1/training/lease"),
    ("POST", "/v1/training/heartbeat"),
    ("POST", "/v1/training/report"),
    ("GET", "/v1/training/feed"),
    ("GET", "/v1/media/{sha256}"),
    ("POST", "/v1/training/rollouts"),
    ("GET", "/v1/rounds"),
    ("GET", "/v1/rounds/{round_id}"),
    ("GET", "/v1/activity"),
    ("POST", "/v1/adapters"),
    ("GET", "/v1/adapters"),
    ("PUT", "/v1/adapters/{upload}/files/{name}"),
    ("POST", "/v1/adapters/{upload}/commit"),
    ("GET", "/v1/adapters/{adapter}"),
    ("GET", "/v1/adapters/{adapter}/report"),
    ("GET", "/v1/adapters/{adapter}/lineage"),
    ("GET", "/v1/adapters/{adapter}/files/{name}"),
    ("DELETE", "/v1/adapters/{adapter}"),
    ("POST", "/v1/adapters/{adapter}/{action}"),
    ("GET", "/v1/routing"),
    ("POST", "/v1/rollback"),
    ("POST", "/v1/rollback/undo"),
    ("GET", "/v1/audit"),
    ("GET", "/v1/check"),
    ("POST", "/v1/keys"),
    ("GET", "/v1/keys"),
    ("DELETE", "/v1/keys/{key}"),
    ("DELETE", "/v1/users/{user}/data"),
    ("POST", "/v1/signals/quarantine"),
}
"""For the installation's own operators and learners: no app's key learns anything there, not even what exists."""


@pytest.fixture
async def stack(open_stack: Opener, tmp_path: Path) -> Stack:
    return await open_keyed(open_stack, tmp_path)


async def ask(stack: Stack, who: str, **changes: Any) -> dict[str, Any]:
    reply = await call(stack, who, "POST", CHAT, json=chat_body(**changes))
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_every_route_has_its_place_in_the_table() -> None:
    """A route that is added must say whom it shows what."""
    routes = {(method.upper(), path) for path, operations in document()["paths"].items() for method in operations}
    placed = [OPEN, LISTS, BOUND.keys(), STAFF]
    assert routes == set().union(*placed)
    assert sum(map(len, placed)) == len(routes)


@pytest.mark.parametrize(("method", "path"), BOUND)
async def test_another_tenant_s_is_as_unknown_as_what_never_was(stack: Stack, method: str, path: str) -> None:
    """Status, words and all."""
    known = (await ask(stack, "default-app", best_of=2))["id"]
    for body in BOUND[method, path]:
        own = await call(stack, "default-app", method, path, json=body(known))
        assert own.status_code != 404, own.text
        for other in ("other-app", "other-operator"):
            theirs = await call(stack, other, method, path, json=body(known))
            nobodys = await call(stack, other, method, path, json=body(MADE_UP))
            assert (theirs.status_code, theirs.json()) == (nobodys.status_code, nobodys.json())
            assert theirs.status_code == 404


@pytest.mark.parametrize(("method", "path"), sorted(STAFF))
async def test_apps_learn_nothing_where_operators_and_learners_work(stack: Stack, method: str, path: str) -> None:
    """The same refusal whatever they name, before anything is looked up."""
    known = (await ask(stack, "default-app", user="ann"))["id"]
    told = set()
    for name in (known, MADE_UP, "base", "ann", "key-default-app"):
        filled = re.sub(r"\{[^}]+\}", name, path)
        for who in ("default-app", "other-app"):
            reply = await call(stack, who, method, filled, params={"alias": "default"})
            told.add((reply.status_code, reply.text))
    assert [status for status, _ in told] == [403]


async def test_an_answer_s_token_opens_no_other_tenant_s(stack: Stack) -> None:
    """It speaks for its own answer alone, whoever sends it."""
    ours, theirs = await ask(stack, "default-app"), await ask(stack, "other-app")
    token = {"authorization": f"Plumbline-Feedback {ours['plumbline']['feedback_token']}"}
    for completion, status in ((ours["id"], 200), (theirs["id"], 403), (MADE_UP, 403)):
        body = {"completion_id": completion, "rating": "up"}
        assert (await stack.client.post("/v1/feedback", json=body, headers=token)).status_code == status


async def test_erasure_stays_in_its_tenant(stack: Stack) -> None:
    """The same name at another tenant is another person; an operator's key means its own unless it names one."""
    ours, theirs = await ask(stack, "default-app", user="ann"), await ask(stack, "other-app", user="ann")
    erased = await call(stack, "other-operator", "DELETE", "/v1/users/ann/data")
    assert erased.json()["groups"] == 1
    for who, completion, status in (("other-app", theirs["id"], 410), ("default-app", ours["id"], 200)):
        said = await call(stack, who, "POST", "/v1/feedback", json={"completion_id": completion, "rating": "up"})
        assert said.status_code == status


async def test_what_may_not_train_leaves_by_no_export_and_no_feed(stack: Stack) -> None:
    """Learners and exports see the tenants that may train the alias, and no others."""
    theirs = await ask(stack, "other-app", best_of=2)
    await call(stack, "other-app", "POST", "/v1/feedback", json={"completion_id": theirs["id"], "rating": "up"})
    ours = await ask(stack, "default-app", best_of=2)
    await call(stack, "default-app", "POST", "/v1/feedback", json={"completion_id": ours["id"], "rating": "up"})
    query = {"alias": "default", "kind": "unpaired", "split": "all"}
    export = await call(stack, "default-operator", "GET", "/v1/preferences", params=query)
    feed = await call(stack, "default-learner", "GET", "/v1/training/feed", params={"alias": "default"})
    for shown in (export.text, feed.text):
        assert ours["id"] in shown and theirs["id"] not in shown


async def test_budgets_hold_over_http(open_stack: Opener, tmp_path: Path) -> None:
    """OpenAI's headers on the answer; a spent budget is 429 with Retry-After; one tenant's does not touch another's."""
    limits = {"tenants": {"default": {"tokens_per_minute": 100}}, "learner": {"requests_per_minute": 1}}
    stack = await open_keyed(open_stack, tmp_path, limits=limits)
    body = chat_body(best_of=1, max_tokens=80)
    first = await call(stack, "default-app", "POST", CHAT, json=body)
    spent = first.json()["usage"]["completion_tokens"]
    assert first.headers["x-ratelimit-limit-tokens"] == "100"
    assert first.headers["x-ratelimit-remaining-tokens"] == "20"
    assert 0 < spent < 80
    streamed = await call(stack, "default-app", "POST", CHAT, json=body | {"max_tokens": 100 - spent, "stream": True})
    assert streamed.status_code == 200, "what was not generated came back"
    refused = await call(stack, "default-operator", "POST", CHAT, json=body | {"max_tokens": 100})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-limit-tokens"] == "100"
    too_much = await call(stack, "default-app", "POST", CHAT, json=body | {"max_tokens": 101})
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (400, "budget_too_small")
    assert (await call(stack, "other-app", "POST", CHAT, json=body)).status_code == 200
    config = [await call(stack, "default-learner", "GET", "/v1/training/config?alias=default") for _ in range(2)]
    assert [one.status_code for one in config] == [200, 429]

"""What people can take back, what is never kept, and what never shows."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest
from sqlalchemy import Connection, select

from learner.replay import Replay
from learner.state import StateDir
from server.config import AliasConfig, Config, HttpConfig, ScorerConfig, SignalsConfig, StoreConfig
from server.keys import hash_key
from server.logs import JsonFormatter
from server.store import adapters, keys, schema
from server.store.keys import KeyRecord
from server.store.records import AdapterRecord, AdapterState
from server.wire.base import BASE
from server.wire.training import FeedEntry
from tests.api.conftest import CHAT, Opener, Stack, assert_openai_error, chat_body, config_for, data_url

AGED = 3 * 3600.0


async def keyed_stack(open_stack: Opener, directory: Path, *aliases: AliasConfig) -> Stack:
    """An installation with keys: "<tenant>-<role>" is the key of its role and tenant."""
    config = Config(
        http=HttpConfig(metrics_port=0, require_keys=True),
        store=StoreConfig(directory=directory),
        aliases=aliases or (config_for(directory).aliases),
    )
    stack: Stack = await open_stack(config)

    def add(connection: Connection) -> None:
        for tenant in ("default", "other"):
            for role in ("app", "learner", "operator"):
                key = f"{tenant}-{role}"
                keys.add_key(connection, KeyRecord(f"key-{key}", tenant, role), hash_key(key), 0.0)

    await stack.services.database.write(add)
    return stack


async def call(stack: Stack, who: str, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {who}"}
    return await stack.client.request(method, path, headers=headers, **options)


async def ask(stack: Stack, who: str = "local", **changes: Any) -> dict[str, Any]:
    response = await call(stack, who, "POST", CHAT, json=chat_body(**changes))
    assert response.status_code == 200, response.text
    return response.json()


def showing(colour: str) -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": data_url(colour=colour)}}
    return [{"role": "user", "content": [image, {"type": "text", "text": f"What is this {colour} thing?"}]}]


async def rate(stack: Stack, reply: dict[str, Any], who: str = "local", **changes: Any) -> httpx.Response:
    body = {"completion_id": reply["id"], "rating": "up", **changes}
    return await call(stack, who, "POST", "/v1/feedback", json=body)


async def feed(stack: Stack, who: str = "local") -> list[dict[str, Any]]:
    response = await call(stack, who, "GET", "/v1/training/feed", params={"alias": "default"})
    return response.json()["entries"]


def image_files(stack: Stack) -> list[Path]:
    return [path for path in (stack.services.config.store.directory / "media").rglob("*") if path.is_file()]


def files_that_hold(directory: Path, text: bytes) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text in path.read_bytes()]


async def rows(stack: Stack, *but: str) -> dict[str, int]:
    """How many rows there are in each table that has any."""

    def read(connection: Connection) -> dict[str, int]:
        counts = {
            name: len(connection.execute(select(table)).all())
            for name, table in schema.metadata.tables.items()
            if name not in but
        }
        return {name: count for name, count in counts.items() if count}

    return await stack.services.database.read(read)


# --- erasure ----------------------------------------------------------------------------------------------


async def test_a_user_is_erased(each_stack: Stack, tmp_path: Path) -> None:
    """Answers, opinions and images go; what another user shows stays; a learner that follows drops the groups."""
    stack = each_stack
    anns = await ask(stack, user="ann/1", messages=showing("red"))
    shared = await ask(stack, user="ann/1", messages=showing("blue"))
    bobs = await ask(stack, user="bob", messages=showing("blue"))
    for reply in (anns, shared, bobs):
        assert (await rate(stack, reply, user="bob")).status_code == 200
    await rate(stack, bobs, user="ann/1", rating="down", comment="ann's comment")
    replay = Replay(StateDir(tmp_path / "learner"), 0, lambda group, images: None)
    for entry in await feed(stack):
        replay.apply(FeedEntry.model_validate(entry))
    assert len(replay) == 3
    for path in image_files(stack):
        os.utime(path, (0, 0))
    reply = await call(stack, "local", "DELETE", "/v1/users/ann%2F1/data")
    assert reply.json() == {"groups": 2, "signals": 3, "images": 1, "adapters": [], "undeclared": [], "remedies": []}
    assert len(image_files(stack)) == 1
    entries = await feed(stack)
    assert {one["group_id"] for one in entries if one["kind"] == "erase"} == {anns["id"], shared["id"], bobs["id"]}
    for entry in entries:
        replay.apply(FeedEntry.model_validate(entry))
    assert replay.get(anns["id"]) is None and replay.get(shared["id"]) is None
    left = replay.get(bobs["id"])
    assert left is not None and [one.desirable for one in left.unpaired] == [True]
    for erased in (anns, shared):
        late = await rate(stack, erased, user="bob")
        assert_openai_error(late, 410, "response_expired")
        assert late.headers["x-should-retry"] == "false"
    assert (await rate(stack, bobs, user="ann/1")).status_code == 200, "who is erased may come back"
    (entry,) = (await call(stack, "local", "GET", "/v1/audit", params={"limit": 1})).json()["data"]
    assert (entry["actor"], entry["action"], entry["detail"]["groups"]) == ("local", "erase", 2)
    assert "ann/1" not in json.dumps(entry)


async def test_only_operators_erase_and_each_tenant_has_its_own_users(open_stack: Opener, tmp_path: Path) -> None:
    """App and learner keys are refused; the tenant is the key's, or the one that the operator names."""
    stack = await keyed_stack(open_stack, tmp_path)
    await ask(stack, "default-app", user="ann")
    for who in ("default-app", "default-learner"):
        assert_openai_error(await call(stack, who, "DELETE", "/v1/users/ann/data"), 403, "insufficient_scope")
    here = await call(stack, "other-operator", "DELETE", "/v1/users/ann/data")
    assert here.json()["groups"] == 0
    there = await call(stack, "other-operator", "DELETE", "/v1/users/ann/data", params={"tenant": "default"})
    assert there.json()["groups"] == 1
    too_long = await call(stack, "default-operator", "DELETE", f"/v1/users/{'x' * 129}/data")
    assert_openai_error(too_long, 400, "invalid_request", "user")


async def test_what_was_erased_is_not_left_on_the_disk(open_stack: Opener, tmp_path: Path) -> None:
    """Once the server has ended, no file of its state holds a word of it."""
    stack = await open_stack(config_for(tmp_path))
    text = "an-unmistakable-word"
    reply = await ask(stack, user="ann", messages=[{"role": "user", "content": text}])
    await rate(stack, reply, user="ann", comment=text, correction=text)
    assert (await call(stack, "local", "DELETE", "/v1/users/ann/data")).json()["groups"] == 1
    await stack.services.database.close()
    assert not files_that_hold(tmp_path, text.encode())
    assert files_that_hold(tmp_path, b"erase"), "the audit entry is to be found there"


async def test_what_to_do_about_adapters_is_offered_and_done(each_stack: Stack) -> None:
    """At the erasure or by the same call later; exactly what was offered; the learner is told where to begin again."""
    stack = each_stack
    anns, bobs = await ask(stack, user="ann"), await ask(stack, user="bob")
    for user, reply in (("bob", bobs), ("ann", anns)):
        await rate(stack, reply, user=user)
    clean = await put_adapter(stack, 1, AdapterState.RETIRED, [bobs["id"]], manifest={"feed_upto": 1})
    tainted = await put_adapter(stack, 2, AdapterState.RETIRED, [bobs["id"], anns["id"]], parent=clean)
    child = await put_adapter(stack, 3, AdapterState.RETIRED, [bobs["id"]], parent=tainted)

    async def erase(**params: str) -> dict[str, Any]:
        response = await call(stack, "local", "DELETE", "/v1/users/ann/data", params=params)
        assert response.status_code == 200, response.text
        return response.json()

    async def config() -> dict[str, Any]:
        return (await call(stack, "local", "GET", "/v1/training/config", params={"alias": "default"})).json()

    offered = await erase()
    assert offered["adapters"] == [tainted, child]
    (alias,) = offered["remedies"]
    assert (alias["alias"], alias["taken"]) == ("default", None)
    roll_back, retrain = alias["remedies"]
    assert (roll_back["action"], roll_back["active"], roll_back["adapters"]) == ("roll_back", BASE, [tainted, child])
    assert (retrain["action"], retrain["feed_after"]) == ("retrain", 0)
    assert (await config())["retraining"] is None
    bad = await call(stack, "local", "DELETE", "/v1/users/ann/data", params={"adapters": "unlearn"})
    assert_openai_error(bad, 400, "invalid_request", "adapters")
    done = await erase(adapters="retrain")
    assert (done["groups"], done["adapters"]) == (0, [tainted, child]), "it is known from the first time"
    assert done["remedies"] == [{**alias, "taken": "retrain"}]
    order = (await config())["retraining"]
    assert order["feed_after"] == 0 and order["number"] > 0
    states = {one["id"]: one["state"] for one in (await call(stack, "local", "GET", "/v1/adapters")).json()["data"]}
    assert states == {clean: "retired", tainted: "quarantined", child: "quarantined"}
    assert (await erase(adapters="retrain"))["remedies"] == []
    assert (await config())["retraining"] == order, "nothing was left to do"
    said = (await feed(stack))[-1]
    assert (said["group_id"], said["kind"]) == (anns["id"], "erase"), "others' signals are not set aside"


# --- what is never kept -----------------------------------------------------------------------------------


async def test_what_is_not_to_be_stored_is_not(each_stack: Stack) -> None:
    """`store: false`: no row of any table, no image, whether it is answered, streamed, refused or fails."""
    stack = each_stack
    before = await rows(stack, "clock")
    body = {"store": False, "user": "ann"}
    reply = await ask(stack, **body)
    assert reply["plumbline"].get("feedback_token") is None
    await ask(stack, **body, best_of=4, plumbline={"compare": True})
    for options in ({"best_of": 1}, {"best_of": 2}):
        streamed = await stack.client.post(CHAT, json=chat_body(**body, stream=True, **options))
        assert "[DONE]" in streamed.text
    stack.engine.script = lambda model, prompt, index: "the forbidden word"
    assert (await ask(stack, **body))["choices"][0]["finish_reason"] == "content_filter"

    def fail(model: str, prompt: Any, index: int) -> str:
        raise ValueError("the engine's client broke")

    stack.engine.script = fail
    assert (await stack.client.post(CHAT, json=chat_body(**body))).status_code == 500
    assert await rows(stack, "clock") == before
    assert image_files(stack) == []
    assert_openai_error(await rate(stack, reply), 404, "response_not_found")


# --- who may learn ----------------------------------------------------------------------------------------


async def test_learners_see_only_what_may_be_learned(open_stack: Opener, tmp_path: Path) -> None:
    """Neither groups nor images of tenants who may not train the alias, of the hold-out, or that nobody spoke of."""
    stack = await keyed_stack(
        open_stack,
        tmp_path,
        AliasConfig(scorers=(ScorerConfig(kind="logprob"),), signals=SignalsConfig(holdout_share=0.0)),
        AliasConfig(name="held", scorers=(ScorerConfig(kind="logprob"),), signals=SignalsConfig(holdout_share=1.0)),
    )
    told = await ask(stack, "default-app", messages=showing("red"))
    await ask(stack, "default-app", messages=showing("blue"))
    foreign = await ask(stack, "other-app", messages=showing("green"))
    held = await ask(stack, "default-app", messages=showing("white"), model="held")
    for who, reply in (("default-app", told), ("other-app", foreign), ("default-app", held)):
        assert (await rate(stack, reply, who)).json()["trainable"] is (reply is told)
    assert [entry["group_id"] for entry in await feed(stack, "default-learner")] == [told["id"]]
    readable = {}
    for path in image_files(stack):
        answer = await call(stack, "default-learner", "GET", f"/v1/media/{path.name}")
        readable[path.name] = answer.status_code
        assert (await call(stack, "default-operator", "GET", f"/v1/media/{path.name}")).status_code == 200
        assert (await call(stack, "default-app", "GET", f"/v1/media/{path.name}")).status_code == 403
    (group,) = [entry["group"] for entry in await feed(stack, "default-learner")]
    assert len(readable) == 4
    assert [name for name, status in readable.items() if status == 200] == group["images"]
    assert {status for name, status in readable.items() if name not in group["images"]} == {404}


async def test_a_tenant_that_may_no_longer_train_is_not_told(open_stack: Opener, tmp_path: Path) -> None:
    """The feed keeps its numbers; of their groups it says nothing more."""
    stack = await open_stack(config_for(tmp_path / "state"))
    reply = await ask(stack)
    await rate(stack, reply)
    assert (await feed(stack))[0]["group"] is not None
    await stack.services.database.close()
    shutil.copytree(tmp_path / "state", tmp_path / "again")
    stack.engine.closed = False
    again = await open_stack(config_for(tmp_path / "again", train_tenants=("somebody else",)))
    (entry,) = await feed(again)
    assert (entry["seq"], entry["group_id"], entry["group"]) == (1, reply["id"], None)


# --- setting aside ----------------------------------------------------------------------------------------


async def test_signals_are_set_aside_and_taken_back(each_stack: Stack) -> None:
    """By user, by annotator, one by one; the feed shows what is left; who did it and why is in the audit trail."""
    stack = each_stack
    reply = await ask(stack, best_of=1)
    kept = (await rate(stack, reply, user="ann")).json()["id"]
    await rate(stack, reply, user="bob", rating="down")

    async def quarantine(**body: Any) -> int:
        response = await stack.client.post("/v1/signals/quarantine", json=body)
        assert response.status_code == 200, response.text
        return response.json()["changed"]

    async def told() -> list[bool]:
        last = (await feed(stack))[-1]
        assert last["kind"] in {"signal", "quarantine"}
        return [one["desirable"] for one in last["group"]["unpaired"]]

    ann = (await feed(stack))[-1]["group"]["unpaired"][0]["annotator"]
    for name in ({"user": "ann"}, {"annotator": ann}, {"signal_ids": [kept]}):
        assert await quarantine(**name, reason="bought opinions") == 1
        assert await told() == [False]
        assert await quarantine(**name, undo=True) == 1
        assert await told() == [True, False]
    actions = [one["action"] for one in (await stack.client.get("/v1/audit")).json()["data"]]
    assert actions.count("set_signals_aside") == actions.count("take_signals_back") == 3
    unknown = await stack.client.post("/v1/signals/quarantine", json={"adapter": "a00001-unknown"})
    assert_openai_error(unknown, 404, "adapter_not_found", "adapter")
    for bad in ({}, {"user": "ann", "annotator": ann}, {"signal_ids": []}):
        assert_openai_error(await stack.client.post("/v1/signals/quarantine", json=bad), 400, "invalid_request")


async def put_adapter(stack: Stack, number: int, state: AdapterState, sources: list[str], **changes: Any) -> str:
    """An adapter's rows, as its upload leaves them."""
    values = {"parent": BASE, "manifest": {}, "created_at": time.time(), "updated_at": time.time(), **changes}
    record = AdapterRecord(id=f"a{number:05d}-{'0' * 12}", number=number, alias="default", state=state, **values)

    def write(connection: Connection) -> None:
        adapters.insert_adapter(connection, record)
        adapters.add_sources(connection, record.id, sources)

    await stack.services.database.write(write)
    return record.id


async def test_a_learner_drops_what_is_behind_a_quarantined_adapter(each_stack: Stack, tmp_path: Path) -> None:
    """Through the feed; taken back in, it comes again."""
    stack = each_stack
    replay = Replay(StateDir(tmp_path / "learner"), 0, lambda group, images: None)

    async def follow() -> set[str]:
        for entry in await feed(stack):
            replay.apply(FeedEntry.model_validate(entry))
        return {group for group in (anns["id"], bobs["id"]) if replay.get(group) is not None}

    anns, bobs = await ask(stack), await ask(stack)
    for user, reply in (("ann", anns), ("bob", bobs)):
        await rate(stack, reply, user=user)
    assert await follow() == {anns["id"], bobs["id"]}
    ann, bob = (group.unpaired[0].annotator for group in replay.all())
    known = await put_adapter(stack, 1, AdapterState.RETIRED, [anns["id"], ann], manifest={"feed_upto": 1})
    learned = [anns["id"], ann, bobs["id"], bob]
    bad = await put_adapter(stack, 2, AdapterState.RETIRED, learned, parent=known, manifest={"feed_upto": 2})
    moved = await stack.client.post(f"/v1/adapters/{bad}/quarantine", json={"reason": "poisoned"})
    assert moved.json()["signals_set_aside"] == 1, moved.text
    assert await follow() == {anns["id"]}
    back = await stack.client.post("/v1/signals/quarantine", json={"adapter": bad, "undo": True})
    assert back.json() == {"changed": 1}
    assert await follow() == {anns["id"], bobs["id"]}


# --- what never shows -------------------------------------------------------------------------------------

CANARY = "canary-7f3a"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, at every level, in the form in which it leaves the process."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore")))  # the test's own client
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


BAD_CHATS: dict[str, dict[str, Any]] = {
    "text for a number": {"temperature": CANARY},
    "a model": {"model": CANARY},
    "a type of content": {"messages": [{"role": "user", "content": [{"type": CANARY, "text": CANARY}]}]},
    "a role": {"messages": [{"role": CANARY, "content": CANARY}]},
    "an image": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:{CANARY}"}}]}]
    },
    "an address": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://{CANARY}.test/"}}]}
        ]
    },
    "a key of metadata": {"metadata": {CANARY: "x" * 600}},
    "a metadata value": {"metadata": {CANARY: [CANARY]}},
    "a user that is too long": {"user": CANARY * 20},
    "a completion": {"plumbline": {"regenerate_of": CANARY}},
    "a lone surrogate": {"messages": said(f"{CANARY}\ud800")},
    "a NUL": {"messages": said(f"{CANARY}\0")},
    "too long": {"messages": said(f"{CANARY} " * 30_000)},
    "beyond the context": {"messages": said(f"{CANARY} " * 6_000)},
    "stop strings": {"stop": [CANARY] * 5},
    "a seed": {"seed": CANARY},
    "a tool's name": {"tools": [{"type": "function", "function": {"name": f"{CANARY} !"}}]},
    "a tool's schema": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": f"#/{CANARY}"}}}]
    },
}
BAD_FEEDBACK: dict[str, dict[str, Any]] = {
    "an unknown completion": {"completion_id": CANARY, "rating": "up"},
    "a malformed id": {"completion_id": f"'; {CANARY} --", "rating": "up"},
    "a rating": {"rating": CANARY},
    "a candidate": {"candidate_id": CANARY, "rating": "up"},
    "labels": {"labels": [CANARY * 20]},
    "a comment": {"comment": CANARY * 1000},
    "a correction": {"correction": CANARY * 10_000},
    "a lone surrogate": {"comment": f"{CANARY}\ud800"},
    "a NUL": {"comment": f"{CANARY}\0"},
    "another vocabulary": {"inference_id": CANARY, "metric_name": CANARY, "value": CANARY, "tags": {CANARY: CANARY}},
}


async def test_no_word_of_a_user_shows(each_stack: Stack, logged: io.StringIO) -> None:
    """Whatever is asked, said, refused or fails: not in a log record, not in a metric, not in an error."""
    stack = each_stack
    errors: list[str] = []

    async def send(method: str, path: str, **options: Any) -> dict[str, Any]:
        body = json.dumps(options.pop("json")) if "json" in options else None
        headers = {"content-type": "application/json", "user-agent": CANARY, "x-request-id": f"{CANARY} "}
        headers |= {"idempotency-key": CANARY, "referer": CANARY, **options.pop("headers", {})}
        response = await stack.client.request(method, path, content=body, headers=headers, **options)
        if response.status_code >= 400:
            errors.append(f"{response.text} {dict(response.headers)}")
        return response.json() if response.headers.get("content-type") == "application/json" else {}

    good = {"messages": said(CANARY), "user": CANARY, "metadata": {CANARY: CANARY}, "stop": [CANARY]}
    reply = await send("POST", CHAT, json=chat_body(**good))
    for options in ({"stream": True, "best_of": 1}, {"store": False}, {"plumbline": {"compare": True}}):
        await send("POST", CHAT, json=chat_body(**{**good, **options}))
    opinion = {"completion_id": reply["id"], "user": CANARY}
    full = {**opinion, "rating": "up", "comment": CANARY, "correction": CANARY, "labels": [CANARY]}
    assert (await send("POST", "/v1/feedback", json=full))["id"]
    before = len(errors)
    for changes in BAD_CHATS.values():
        await send("POST", CHAT, json=chat_body(**changes))
    for changes in BAD_FEEDBACK.values():
        wanted = changes if {"completion_id", "inference_id"} & changes.keys() else {**opinion, **changes}
        await send("POST", "/v1/feedback", json=wanted)
    await send("POST", "/v1/preferences", json={**opinion, "chosen": CANARY, "rejected": f"{CANARY}-2"})
    await send("POST", "/v1/preferences", json={**opinion, "ranking": [CANARY, CANARY]})
    tried = len(BAD_CHATS) + len(BAD_FEEDBACK) + 2
    assert len(errors) - before == tried, "each of these is refused"
    await send(CANARY, CHAT)
    await send("GET", f"/{CANARY}", params={CANARY: CANARY})
    await send("GET", f"/v1/media/{CANARY}")
    await send("GET", "/v1/training/feed", params={"alias": CANARY, "after": CANARY})
    await send("POST", "/v1/feedback", json=full, headers={"authorization": f"Plumbline-Feedback {CANARY}"})
    await send("POST", CHAT, headers={"content-type": CANARY})

    def fail(model: str, prompt: Any, index: int) -> str:
        raise ValueError(f"not expected: {CANARY}")

    stack.engine.script = fail
    await send("POST", CHAT, json=chat_body(**good))
    stack.engine.script = lambda model, prompt, index: f"{CANARY} the forbidden word"
    await send("POST", CHAT, json=chat_body(**good))
    await send("DELETE", f"/v1/users/{CANARY}/data")
    await send("POST", "/v1/feedback", json=full)
    metrics = generate_latest(stack.services.metrics.registry).decode()
    assert "plumbline_requests_total" in metrics and CANARY not in metrics
    assert len(errors) - before >= tried + 6
    assert [error for error in errors if CANARY in error] == []
    lines = logged.getvalue().splitlines()
    assert any("unexpected" in line and "ValueError" in line for line in lines)
    assert [line for line in lines if CANARY in line] == []

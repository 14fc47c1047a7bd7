"""The SDK: what it sends, what it repeats, and how every failure becomes one error."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel

from clients.client import PlumblineClient, PlumblineError
from server.api.openapi import document
from server.wire.adapters import AdapterManifest, MoveRequest, RollbackRequest
from server.wire.exchange import ImportRequest
from server.wire.identity import directory_digest
from server.wire.keys import KeyRequest
from server.wire.operate import QuarantineRequest
from server.wire.signals import FeedbackRequest, PreferenceRequest
from server.wire.training import HeartbeatRequest, LeaseRequest, RolloutRequest, RoundReport
from tests.api.served import served

ROUTING = {
    "alias": "a",
    "active": "base",
    "previous": None,
    "canary": None,
    "canary_share": 0.0,
    "generation": 3,
    "updated_at": 1.0,
}
ADAPTER = {"id": "x", "alias": "a", "state": "staged", "parent": "base", "created_at": 1.0, "updated_at": 1.0}
LEASE = {"alias": "a", "token": 1, "expires_at": 1.0, "active": "base", "generation": 0, "head": 0}
ROUND = {"id": 3, "alias": "a", "outcome": "skipped", "reason": "", "adapter": None, "created_at": 1.0}
SIGNAL = {"id": "s", "completion_id": "c", "trainable": True}
ACTIVITY = {"alias": "a", "since": 0.0, "bucket_s": 60.0, "is_whole": True, "buckets": [], "adapters": [],
            "scorers": [], "rules": [], "feed_head": 0}  # fmt: skip
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
MANIFEST = AdapterManifest.model_validate(
    {
        "alias": "a",
        "base_digest": "0" * 64,
        "files": [
            {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in FILES.items()
        ],
    }
)


def client(handler: Callable[[httpx.Request], httpx.Response], key: str | None = "k") -> PlumblineClient:
    return PlumblineClient("http://server/v1/", key, transport=httpx.MockTransport(handler), first_delay_s=0.001)


Call = Callable[[PlumblineClient], object]
CALLS: list[tuple[str, str, object, Call]] = [
    ("GET", "/v1/training/config", {"alias": "a", "base_model": "m", "base_digest": "d", "max_lora_rank": 8,
                                    "lora_modules": [], "learner": {}}, lambda c: c.training_config("a")),
    ("GET", "/v1/training/feed", {"entries": [], "next": 4, "head": 4}, lambda c: c.training_feed("a", 4, 10)),
    ("POST", "/v1/training/lease", LEASE, lambda c: c.lease(LeaseRequest(alias="a", owner="me"))),
    ("POST", "/v1/training/heartbeat", {"expires_at": 2.0},
     lambda c: c.heartbeat(HeartbeatRequest(alias="a", token=1))),
    ("POST", "/v1/training/report", {}, lambda c: c.report_round(RoundReport(alias="a", token=1, outcome="skipped"))),
    ("POST", "/v1/training/rollouts", {"adapter": "base", "data": [{"group_id": "g", "reason": "busy"}]},
     lambda c: c.rollouts(RolloutRequest(alias="a", token=1, adapter="base", group_ids=["g"]), timeout_s=5.0)),
    ("DELETE", "/v1/adapters/x", {"id": "x", "deleted": True}, lambda c: c.delete_adapter("x")),
    ("GET", "/v1/adapters", {"data": [ADAPTER]}, lambda c: c.adapters("a")),
    ("GET", "/v1/adapters/x", ADAPTER, lambda c: c.adapter("x")),
    ("GET", "/v1/adapters/x/report", {"adapter": "x", "reports": []}, lambda c: c.adapter_report("x")),
    ("GET", "/v1/adapters/x/lineage", {"adapter": "x", "ancestors": [], "descendants": []},
     lambda c: c.adapter_lineage("x")),
    ("GET", "/v1/adapters/x/files/adapter_config.json", {}, lambda c: c.adapter_file("x", "adapter_config.json")),
    ("POST", "/v1/adapters/x/canary", ROUTING, lambda c: c.move_adapter("x", "canary", MoveRequest(share=0.1))),
    ("GET", "/v1/rounds", {"data": [ROUND]}, lambda c: c.rounds("a", limit=5)),
    ("GET", "/v1/rounds/3", {**ROUND, "detail": {}}, lambda c: c.round(3)),
    ("GET", "/v1/routing", {"data": [ROUTING]}, lambda c: c.routing()),
    ("POST", "/v1/rollback", ROUTING, lambda c: c.rollback(RollbackRequest(alias="a"))),
    ("POST", "/v1/rollback/undo", ROUTING, lambda c: c.undo_rollback()),
    ("GET", "/v1/audit", {"data": []}, lambda c: c.audit(5)),
    ("GET", "/v1/models", {"data": []}, lambda c: c.models()),
    ("GET", "/v1/models/a", {"id": "a", "created": 1}, lambda c: c.model("a")),
    ("GET", "/v1/activity", ACTIVITY, lambda c: c.activity("a", hours=1.5, buckets=4)),
    ("GET", "/healthz", {"status": "ok"}, lambda c: c.health()),
    ("POST", "/v1/feedback", SIGNAL, lambda c: c.feedback(FeedbackRequest(completion_id="c", rating="up"))),
    ("POST", "/v1/preferences", SIGNAL,
     lambda c: c.preference(PreferenceRequest(completion_id="c", chosen="x", rejected=["y"]))),
]  # fmt: skip

FURTHER: list[Call] = [
    lambda c: c.media("0" * 64),
    lambda c: c.begin_upload(MANIFEST),
    lambda c: c.put_adapter_file("u", "adapter_config.json", b"{}"),
    lambda c: c.commit_upload("u"),
    lambda c: c.create_key(KeyRequest(role="app", name="k")),
    lambda c: c.keys(),
    lambda c: c.revoke_key("k"),
    lambda c: c.erase_user("ann"),
    lambda c: c.quarantine_signals(QuarantineRequest(user="ann")),
    lambda c: c.check(),
    lambda c: c.ready(),
    lambda c: list(c.export_preferences("a")),
    lambda c: c.import_groups(ImportRequest.model_construct(alias="a", groups=[])),
]
"""Calls whose own tests lie elsewhere."""
SPOKEN_BY_APPS = {("POST", "/v1/chat/completions")}
"""By `clients.Plumbline`, over the stock `openai` client."""


def test_every_route_has_a_method() -> None:
    """Against the OpenAPI document: whoever adds a route adds what calls it."""
    called: set[tuple[str, str]] = set()

    def handler(request: httpx.Request) -> httpx.Response:
        called.add((request.method, request.url.path))
        return httpx.Response(200, json={})

    for call in (*(call for _, _, _, call in CALLS), *FURTHER):
        with contextlib.suppress(PlumblineError):  # an empty reply is not what most promise
            call(client(handler))
    routes = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    patterns = {(method, path): re.sub(r"\{[^}]+\}", "[^/]+", path) for method, path in routes}
    missed = {
        route for route, pattern in patterns.items()
        if not any(method == route[0] and re.fullmatch(pattern, path) for method, path in called)
    }  # fmt: skip
    assert missed == SPOKEN_BY_APPS


def test_activity_and_models_are_what_the_service_tells(tmp_path: Path) -> None:
    """Over the network, typed; a name that does not exist is an error."""
    with served(tmp_path) as server, PlumblineClient(server.url, "default-operator") as operator:
        found = operator.activity("default", hours=2, buckets=4)
        assert (found.alias, found.bucket_s, len(found.buckets)) == ("default", 1800, 4)
        assert len(operator.activity("default").buckets) == 48
        assert [operator.model(one.id) for one in operator.models().data] == operator.models().data
        with pytest.raises(PlumblineError, match="404") as caught:
            operator.model("another")
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(("method", "path", "reply", "call"), CALLS, ids=[f"{m} {p}" for m, p, _, _ in CALLS])
def test_every_method_calls_its_route_with_the_key(method: str, path: str, reply: object, call: Call) -> None:
    """The route, the authorisation, a JSON body where there is one, and a typed reply."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=reply)

    result = call(client(handler))
    (request,) = seen
    assert (request.method, request.url.path) == (method, path)
    assert request.headers["authorization"] == "Bearer k"
    if method == "POST":
        assert request.headers["content-type"] == "application/json" and json.loads(request.content) is not None
    assert result is None or isinstance(result, bytes | BaseModel)


@pytest.mark.parametrize(("method", "path", "reply", "call"), CALLS, ids=[f"{m} {p}" for m, p, _, _ in CALLS])
def test_only_calls_that_can_be_repeated_are(method: str, path: str, reply: object, call: Call) -> None:
    """A 503 is repeated for reads, lease, heartbeat and feedback; never for moves, rollbacks and reports."""
    count = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        return httpx.Response(503) if count < 3 else httpx.Response(200, json=reply)

    repeatable = method == "GET" or path.split("/")[2] in {"feedback", "preferences"}
    if repeatable or path.endswith(("lease", "heartbeat")):
        call(client(handler))
        assert count == 3
    else:
        with pytest.raises(PlumblineError) as caught:
            call(client(handler))
        assert count == 1 and caught.value.status == 503 and caught.value.is_transient


def test_an_error_reply_becomes_one_exception() -> None:
    """Status, message, type, code, param and request id, and no second attempt."""
    body = {"message": "No such model.", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    calls: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(404, json={"error": body}, headers={"x-request-id": "req-7"})

    with pytest.raises(PlumblineError) as caught:
        client(handler).adapter("x")
    error = caught.value
    assert (error.status, error.message, error.type) == (404, "No such model.", "invalid_request_error")
    assert (error.code, error.param, error.request_id) == ("model_not_found", "model", "req-7")
    assert not error.is_transient and len(calls) == 1
    assert str(error) == "404 · No such model. · code model_not_found · request req-7"


@pytest.mark.parametrize("reply", [httpx.Response(502, text="<html>"), httpx.Response(500, json={"detail": "x"})])
def test_a_proxys_error_page_is_an_error_too(reply: httpx.Response) -> None:
    """No error object in the body: the status still arrives."""
    with pytest.raises(PlumblineError, match=str(reply.status_code)):
        client(lambda request: reply).routing()


def test_a_reply_of_another_shape_is_an_error() -> None:
    """Success without the promised fields is not success."""
    with pytest.raises(PlumblineError, match="do not fit") as caught:
        client(lambda request: httpx.Response(200, json={"hello": 1})).adapter("x")
    assert caught.value.type == "invalid_reply"


def test_a_server_that_is_away_is_tried_again_and_then_reported() -> None:
    """Four attempts with back-off; status 0."""
    count = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        raise httpx.ConnectError("refused")

    with pytest.raises(PlumblineError) as caught:
        client(handler).routing()
    assert (count, caught.value.status, caught.value.type) == (4, 0, "connection_error")
    assert caught.value.is_transient


def test_repeated_feedback_carries_one_idempotency_key() -> None:
    """The same key in each attempt; the caller's own when given; the answer's token in place of the API key."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(503) if len(seen) % 2 else httpx.Response(200, json=SIGNAL)

    asked = FeedbackRequest(completion_id="c", rating="up")
    connected = client(handler)
    connected.feedback(asked)
    connected.feedback(asked, token="t", key="mine")
    keys = [request.headers["idempotency-key"] for request in seen]
    assert keys[0] == keys[1] and keys[2:] == ["mine", "mine"]
    assert [request.headers["authorization"] for request in seen] == ["Bearer k"] * 2 + ["Plumbline-Feedback t"] * 2


def test_an_adapter_is_uploaded_in_three_steps() -> None:
    """Manifest; each missing file with its sha256; commit."""
    seen: list[tuple[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        if request.method == "PUT":
            assert request.headers["content-type"] == "application/octet-stream"
            assert request.headers["x-content-sha256"] == hashlib.sha256(request.content).hexdigest()
            return httpx.Response(204)
        if request.url.path == "/v1/adapters":
            assert AdapterManifest.model_validate_json(request.content) == MANIFEST
            return httpx.Response(200, json={"upload": "u", "missing": ["adapter_model.safetensors"]})
        return httpx.Response(200, json=ADAPTER)

    assert client(handler).upload_adapter(MANIFEST, FILES).id == "x"
    assert seen == [
        ("POST", "/v1/adapters"),
        ("PUT", "/v1/adapters/u/files/adapter_model.safetensors"),
        ("POST", "/v1/adapters/u/commit"),
    ]


def test_only_the_piece_that_broke_off_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file goes in pieces, each with its place and its hash."""
    monkeypatch.setattr("clients.client.UPLOAD_PIECE_BYTES", 4)
    seen: list[tuple[str, bytes]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["x-content-sha256"] == hashlib.sha256(request.content).hexdigest()
        seen.append((request.url.params["offset"], request.content))
        if len(seen) == 2:
            raise httpx.ReadError("cut")
        return httpx.Response(200, json={"upload": "u", "missing": []})

    client(handler).put_adapter_file("u", "adapter_model.safetensors", b"0123456789")
    assert seen == [("0", b"0123"), ("4", b"4567"), ("4", b"4567"), ("8", b"89")]


def test_media_is_checked_against_its_digest() -> None:
    """Other bytes than asked for are an error, not an image."""
    digest = hashlib.sha256(b"image").hexdigest()
    assert client(lambda request: httpx.Response(200, content=b"image")).media(digest) == b"image"
    with pytest.raises(PlumblineError, match="other bytes"):
        client(lambda request: httpx.Response(200, content=b"another")).media(digest)


def test_not_ready_is_an_answer() -> None:
    """/readyz says 503 with a reason; that is what was asked."""
    reply = httpx.Response(503, json={"status": "unavailable", "detail": {"engine": "starting"}})
    assert client(lambda request: reply).ready().detail == {"engine": "starting"}


def test_the_digest_of_a_model_directory_is_that_of_its_files(tmp_path: Path) -> None:
    """sha256 over "name sha256" lines of the model's files, sorted; other files and folders do not count."""
    for name, content in {"config.json": b"{}", "b.safetensors": b"w", "notes.md": b"x"}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.json").mkdir()
    lines = [f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in
             (("b.safetensors", b"w"), ("config.json", b"{}"))]  # fmt: skip
    assert directory_digest(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()

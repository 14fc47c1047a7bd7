"""Adapters over HTTP, on the whole application: rows 61 to 63 of the bad inputs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from benchmarks._postgres import Cluster
from server.app import create_app
from server.config import AliasConfig, Config, HttpConfig, RolloutConfig, StoreConfig
from server.engine.fake import FakeEngine
from server.engine.port import Replica
from server.engine.supervisor import EngineSupervisor
from server.installation import Installation
from server.keys import hash_key
from server.services import Services
from server.store import keys
from server.store.keys import KeyRecord
from server.wire.adapters import AdapterReply, RoutingReply
from tests.api.conftest import assert_openai_error
from tests.server.adapters.support import adapter_bytes, config_bytes, manifest_for, until

MODULE = "model.language_model.layers.0.self_attn.q_proj"


@dataclass
class App:
    client: httpx.AsyncClient
    services: Services
    engine: FakeEngine

    async def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = await self.client.request(method, path, **options)
        assert response.status_code == 200, response.text
        return response.json()

    async def upload(
        self, config: bytes = config_bytes(), tensors: bytes | None = None, **manifest: Any
    ) -> httpx.Response:
        """All three steps; the reply of the last."""
        tensors = tensors if tensors is not None else adapter_bytes(seed=len(await self.services.registry.find()))
        manifest = {"base_digest": self.services.base_digest, **manifest}
        body = manifest_for(config, tensors, **manifest).model_dump(mode="json")
        upload = (await self.call("POST", "/v1/adapters", json=body))["upload"]
        for name, data in (("adapter_config.json", config), ("adapter_model.safetensors", tensors)):
            headers = {"x-content-sha256": hashlib.sha256(data).hexdigest()}
            await self.call("PUT", f"/v1/adapters/{upload}/files/{name}", content=data, headers=headers)
        return await self.client.post(f"/v1/adapters/{upload}/commit")

    async def gated(self) -> str:
        """An adapter, once the background has brought it to `gated`."""
        adapter = AdapterReply.model_validate((await self.upload()).json()).id

        async def is_gated() -> bool:
            return (await self.call("GET", f"/v1/adapters/{adapter}"))["state"] == "gated"

        await until(is_gated)
        return adapter


async def open_app(
    directory: Path,
    *,
    alias: dict[str, Any] | None = None,
    shadow: dict[str, Any] | None = None,
    store: dict[str, Any] | None = None,
    engine_type: type[FakeEngine] = FakeEngine,
    **http: Any,
) -> tuple[Installation, App]:
    engine = engine_type(base_model="some/model", adapters_dir=directory / "adapters")
    config = Config.model_validate(
        {
            "http": HttpConfig(metrics_port=0, **http),
            "engine": {"model": "some/model"},
            "store": StoreConfig(directory=directory, **(store or {})),
            "aliases": (AliasConfig(rollout=RolloutConfig(automatic=False), **(alias or {})),),
            "shadow": shadow or {},
        }
    )

    def connect(config: Config) -> list[tuple[Replica, EngineSupervisor]]:
        return [(engine, EngineSupervisor(engine, None, probe_interval_s=0.05))]

    installation = Installation(config, connect)
    services = await installation.open()
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    return installation, App(httpx.AsyncClient(transport=transport, base_url="http://localhost"), services, engine)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    installation, opened = await open_app(tmp_path)
    yield opened
    await opened.client.aclose()
    await installation.close()


async def test_an_adapter_goes_all_the_way_over_http(app: App) -> None:
    """Uploaded in three steps, looked at, tried, promoted, rolled back, undone."""
    adapter = await app.gated()
    assert [one["id"] for one in (await app.call("GET", "/v1/adapters"))["data"]] == [adapter]
    report = await app.call("GET", f"/v1/adapters/{adapter}/report")
    assert [one["kind"] for one in report["reports"]] == ["integrity", "probe", "gate"]
    markdown = await app.client.get(f"/v1/adapters/{adapter}/report?format=markdown")
    assert markdown.headers["content-type"].startswith("text/markdown")
    assert "## gate" in markdown.text
    page = await app.client.get(f"/v1/adapters/{adapter}/report?format=html")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert adapter in page.text and "publish" in page.text and "<svg" in page.text
    assert await app.call("GET", f"/v1/adapters/{adapter}/lineage") == {
        "adapter": adapter,
        "ancestors": ["base"],
        "descendants": [],
    }
    fetched = await app.client.get(f"/v1/adapters/{adapter}/files/adapter_model.safetensors")
    assert fetched.content == adapter_bytes(seed=0)

    canary = await app.call("POST", f"/v1/adapters/{adapter}/canary", json={"share": 0.5, "reason": "a try"})
    assert (canary["canary"], canary["canary_share"], canary["generation"]) == (adapter, 0.5, 1)
    promoted = await app.call("POST", f"/v1/adapters/{adapter}/promote", json={"expect_generation": 1})
    assert (promoted["active"], promoted["canary"], promoted["previous"]) == (adapter, None, "base")
    assert (await app.call("POST", "/v1/rollback", json={}))["active"] == "base"
    undone = await app.call("POST", "/v1/rollback/undo", json={"alias": "default"})
    assert undone["active"] == adapter
    routing = await app.call("GET", "/v1/routing")
    assert routing["data"] == [undone]
    assert RoutingReply.model_validate(undone).generation == 4
    trail = await app.call("GET", "/v1/audit?limit=4")
    assert [one["action"] for one in trail["data"]] == ["undo", "rollback", "promote", "canary"]
    assert trail["data"][-1]["detail"]["reason"] == "a try"


async def test_the_next_request_goes_where_the_move_says(app: App) -> None:
    """An answer after the move names the new adapter and generation."""
    adapter = await app.gated()
    chat = {"model": "default", "messages": [{"role": "user", "content": "Hello?"}], "best_of": 1}
    before = (await app.call("POST", "/v1/chat/completions", json=chat))["plumbline"]
    await app.call("POST", f"/v1/adapters/{adapter}/promote", json={})
    after = (await app.call("POST", "/v1/chat/completions", json=chat))["plumbline"]
    assert (before["adapter"], before["generation"]) == ("base", 0)
    assert (after["adapter"], after["generation"]) == (adapter, 1)


async def test_stale_and_impossible_moves_are_refused(app: App) -> None:
    """412 for an old view, 400 for what the table forbids, 404 for what is not there; nothing has moved."""
    adapter = await app.gated()
    path = f"/v1/adapters/{adapter}"
    for body, action in (({"expect_generation": 9}, "promote"), ({"expect_generation": 9}, "reject")):
        assert_openai_error(await app.client.post(f"{path}/{action}", json=body), 412, "stale_generation")
    assert_openai_error(await app.client.post("/v1/rollback", json={"expect_generation": 9}), 412, "stale_generation")
    assert_openai_error(await app.client.post("/v1/rollback", json={}), 400, "illegal_move")
    assert_openai_error(await app.client.post("/v1/rollback/undo", json={}), 400, "illegal_move")
    assert_openai_error(await app.client.post("/v1/rollback", json={"alias": "other"}), 404, "model_not_found")
    assert_openai_error(await app.client.post(f"{path}/explode", json={}), 404, "not_found")
    assert_openai_error(await app.client.post(f"{path}/canary", json={"share": 2}), 400, "invalid_request", "share")
    assert_openai_error(await app.client.post(f"{path}/canary", json={"x": 2}), 400, "unknown_parameter", "x")
    assert_openai_error(await app.client.post("/v1/adapters/a9/promote", json={}), 404, "adapter_not_found")
    for tail in ("", "/report", "/lineage", "/files/adapter_config.json"):
        assert_openai_error(await app.client.get(f"/v1/adapters/a9{tail}"), 404, "adapter_not_found")
    for name in ("adapter_model.bin", "%2e%2e", "..%2f..%2fplumbline.db"):
        response = await app.client.get(f"{path}/files/{name}")
        assert response.status_code == 404
    assert_openai_error(await app.client.get(f"{path}/report?format=pickle"), 400, "invalid_request", "format")
    assert (await app.call("GET", "/v1/routing"))["data"][0]["generation"] == 0


async def test_bad_uploads_are_refused_and_the_next_good_one_works(app: App) -> None:
    """Wrong base, pickle, lying header, NaN, auto_map: 400 in the one error shape, and nothing is kept."""
    tensors = adapter_bytes()
    good = manifest_for(config_bytes(), tensors, base_digest=app.services.base_digest).model_dump(mode="json")
    bad_names = {**good, "files": [good["files"][0], {**good["files"][1], "name": "adapter_model.bin"}]}
    assert_openai_error(await app.client.post("/v1/adapters", json=bad_names), 400, "invalid_request")
    other_base = {**good, "base_digest": "1" * 64}
    assert_openai_error(await app.client.post("/v1/adapters", json=other_base), 400, "adapter_rejected")
    assert_openai_error(await app.client.post("/v1/adapters", json={**good, "alias": "x"}), 404, "model_not_found")
    assert_openai_error(await app.client.post("/v1/adapters", json={**good, "lease_token": 5}), 403, "lease_lost")
    refused = await app.upload(tensors=b"\xff" * 100)
    assert_openai_error(refused, 400, "adapter_rejected")
    assert_openai_error(await app.upload(config_bytes(auto_map={"a": "b"})), 400, "adapter_rejected")
    upload = (await app.call("POST", "/v1/adapters", json=good))["upload"]
    path = f"/v1/adapters/{upload}"
    assert_openai_error(await app.client.post(f"{path}/commit"), 400, "upload_incomplete")
    for data, status in ((tensors + b"x", 413), (tensors[:-1], 400)):
        response = await app.client.put(f"{path}/files/adapter_model.safetensors", content=data)
        assert_openai_error(response, status, "upload_mismatch")
    unknown = await app.client.put("/v1/adapters/upload-0/files/adapter_config.json", content=b"x")
    assert_openai_error(unknown, 404, "upload_not_found")
    zipped = await app.client.put(
        f"{path}/files/adapter_config.json", content=b"x", headers={"content-encoding": "gzip"}
    )
    assert_openai_error(zipped, 415, "unsupported_encoding")
    assert (await app.call("GET", "/v1/adapters"))["data"] == []
    assert (await app.upload()).json()["state"] == "staged"


async def test_each_role_may_do_its_own(tmp_path: Path) -> None:
    """Apps see no adapters; the learner uploads and looks; only operators decide."""
    installation, app = await open_app(tmp_path, require_keys=True)
    for role in ("app", "learner", "operator"):
        record = KeyRecord(role, "default", role)
        await app.services.database.write(lambda c, one=record: keys.add_key(c, one, hash_key(one.role), 0.0))

    async def status(role: str, method: str, path: str, **options: Any) -> int:
        headers = {"authorization": f"Bearer {role}"} if role else {}
        return (await app.client.request(method, path, headers=headers, **options)).status_code

    seen = {role: await status(role, "GET", "/v1/adapters") for role in ("", "app", "learner", "operator")}
    assert seen == {"": 401, "app": 403, "learner": 200, "operator": 200}
    operator_only: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/adapters/a9/promote", {"json": {}}),
        ("POST", "/v1/rollback", {"json": {}}),
        ("GET", "/v1/routing", {}),
        ("GET", "/v1/audit", {}),
    ]
    for method, path, options in operator_only:
        assert await status("learner", method, path, **options) == 403
        assert await status("operator", method, path, **options) in (200, 400, 404)
    await app.client.aclose()
    await installation.close()


async def test_a_move_on_one_server_is_followed_by_the_other(postgres: Cluster, tmp_path: Path) -> None:
    """One database, one store of files, two servers with an engine each: promotion and rollback, within the lease."""
    url = postgres.create()
    store = {"url": SecretStr(url), "blobs": f"memory://{tmp_path.name}", "routing_lease_s": 0.5}
    opened = [await open_app(tmp_path / name, store=store) for name in ("one", "two")]
    (_, here), (_, there) = opened
    body = {"model": "default", "messages": [{"role": "user", "content": "What is this?"}], "best_of": 1}
    try:
        for app in (here, there):
            await app.services.engine.wait_ready(5.0)

        async def serves(adapter: str) -> bool:
            """Whether the other server answers by it; the fake engine knows only files of its own server."""
            return (await there.call("POST", "/v1/chat/completions", json=body))["plumbline"]["adapter"] == adapter

        adapter = await here.gated()
        await here.call("POST", f"/v1/adapters/{adapter}/promote", json={})
        await until(lambda: serves(adapter))
        assert adapter in there.engine.loaded
        await here.call("POST", "/v1/rollback", json={})
        await asyncio.sleep(0.5)
        assert await serves("base")
    finally:
        for installation, app in opened:
            await app.client.aclose()
            await installation.close()
        postgres.drop(url)


async def test_a_learners_ephemeral_adapter_answers_and_is_deleted(app: App) -> None:
    """By its id, for the learner alone; when it is deleted it answers no more. No other adapter can be deleted."""
    asked = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "best_of": 2}
    group = (await app.call("POST", "/v1/chat/completions", json=asked))["id"]
    await app.call("POST", "/v1/feedback", json={"completion_id": group, "rating": "up"})
    token = (await app.call("POST", "/v1/training/lease", json={"alias": "default", "owner": "me"}))["token"]
    ephemeral = (await app.upload(ephemeral=True, lease_token=token)).json()["id"]
    body = {"alias": "default", "token": token, "adapter": ephemeral, "group_ids": [group], "candidates": 3}
    (one,) = (await app.call("POST", "/v1/training/rollouts", json=body))["data"]
    assert {each["adapter"] for each in one["group"]["candidates"]} == {ephemeral}

    app.engine.adapters_dir = None  # what is published is no longer found
    (one,) = (await app.call("POST", "/v1/training/rollouts", json=body))["data"]
    assert one["reason"] == "engine", "the base model does not stand in"

    assert await app.call("DELETE", f"/v1/adapters/{ephemeral}") == {"id": ephemeral, "deleted": True}
    gone = await app.client.post("/v1/training/rollouts", json=body)
    assert_openai_error(gone, 404, "model_not_found")
    staged = (await app.upload()).json()["id"]
    for name in (ephemeral, staged, "base"):
        assert_openai_error(await app.client.delete(f"/v1/adapters/{name}"), 404, "adapter_not_found")

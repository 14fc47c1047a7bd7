"""What else can happen while adapters change: the engine dies, the disk is full, the learner goes in the middle.

Requests are refused clearly or answered by who serves; nothing is half published; what was begun goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from reward.types import Prompt
from server import faults
from server.config import Config, load_config
from server.engine.health import EngineState
from server.integrity import check_state
from tests.api.conftest import CHAT, Stack, assert_openai_error
from tests.faults.service import Ledger, Service, running, talk
from tests.faults.story import ALIAS, CONFIG, SETTINGS, Told, begin, call, find, routing, serves, tell, upload
from tests.faults.test_file import needs_root, small_disk
from tests.server.adapters.support import adapter_bytes, until

NAME = "adapter_model.safetensors"


def config_for(directory: Path) -> Config:
    return load_config(Service(directory, settings=SETTINGS, alias=ALIAS).config_file)


async def ask(stack: Stack) -> httpx.Response:
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello?"}], "best_of": 1, "user": "somebody"}
    return await stack.client.post(CHAT, json=body)


async def is_sound(stack: Stack) -> bool:
    services = stack.services
    later = time.time() + 5 * 3600  # what is left over is a finding only when it is old
    return await check_state(services.database, services.blobs, services.registry, now=later) == []


@pytest.mark.parametrize("at", [1, 4])
async def test_the_engine_dies_while_an_adapter_is_probed(tmp_path: Path, at: int) -> None:
    """At the first or the last token that the adapter scores: it waits where it stands, and goes on afterwards."""
    async with running(config_for(tmp_path)) as stack:
        told, calls = Told(), 0
        first = await serves(stack.client, told, 1)

        def dying(model: str, prompt: Prompt, piece: str) -> float:
            nonlocal calls
            calls += 1
            if calls == at:
                stack.engine.ready = False
            return -0.3 if model == first else -0.5 if model == SETTINGS["engine"]["model"] else -0.4

        stack.engine.token_logprob = dying
        second = await upload(stack.client, told, 2)
        await until(lambda: not stack.engine.ready)
        assert_openai_error(await ask(stack), 503, "engine_unavailable")
        await asyncio.sleep(0.3)
        assert (await call(stack.client, "GET", f"/v1/adapters/{second}"))["state"] in ("staged", "verified")
        assert (await routing(stack.client))["active"] == first
        stack.engine.ready = True
        assert await serves(stack.client, told, 2) == second
        await until(lambda: stack.services.engine.state is EngineState.READY)
        answer = await ask(stack)
        assert answer.json()["plumbline"]["adapter"] == second
        assert await is_sound(stack)


async def test_the_engine_dies_in_the_moment_of_a_move(tmp_path: Path) -> None:
    """The way back needs no engine; the way forward waits for one. No answer names an old generation."""
    async with running(config_for(tmp_path)) as stack:
        told = Told()
        first = await serves(stack.client, told, 1)
        assert (await ask(stack)).status_code == 200
        with faults.armed("move.before_commit=delay:100"):
            moving = asyncio.create_task(call(stack.client, "POST", "/v1/rollback", json={}))
            await asyncio.sleep(0.05)
            stack.engine.ready = False
            moved = await moving
        assert (moved["active"], moved["generation"]) == ("base", 3)
        assert_openai_error(await ask(stack), 503, "engine_unavailable")
        await until(lambda: stack.services.engine.state is not EngineState.READY)
        assert_openai_error(await stack.client.post("/v1/rollback/undo", json={}), 503, "quorum_missing")
        stack.engine.ready = True
        await until(lambda: stack.services.engine.state is EngineState.READY)
        await call(stack.client, "POST", "/v1/rollback/undo", json={})
        answer = (await ask(stack)).json()["plumbline"]
        assert (answer["adapter"], answer["generation"]) == (first, 4)
        assert await is_sound(stack)


@needs_root
async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A real one: the upload gets 503 in the one shape at whichever step, leaves nothing, and works with room again."""
    with small_disk(tmp_path, "12m"):
        config = config_for(tmp_path)
        async with running(config) as stack:
            told, ballast = Told(), tmp_path / "ballast"
            await serves(stack.client, told, 1)
            big = adapter_bytes(rank=2, inputs=250_000, outputs=4)
            session = await begin(stack.client, big)
            with contextlib.suppress(OSError):
                ballast.write_bytes(b"\0" * (shutil.disk_usage(tmp_path).free - 500_000))
            path = f"/v1/adapters/{session}/files/{NAME}"
            refused = await stack.client.put(path, content=big)
            assert_openai_error(refused, 503, "storage_unavailable")
            assert int(refused.headers["retry-after"]) > 0
            assert "disk" not in refused.json()["error"]["message"].lower()
            assert (await routing(stack.client))["canary"] is None
            ballast.unlink()
            assert (await call(stack.client, "PUT", path, content=big))["missing"] == ["adapter_config.json"]
            await talk(stack.client, Ledger(), "afterwards")
            await serves(stack.client, told, 2)
            assert len((await call(stack.client, "GET", "/v1/adapters"))["data"]) == 2
            names = {one.name for one in (config.store.directory / "adapters").iterdir()}
            assert names == told.uploads
            assert await is_sound(stack)


@pytest.mark.parametrize("at", ["upload.write", "file.before_rename", "adapter.after_rename"])
@pytest.mark.parametrize("hit", [1, 2])
async def test_a_disk_that_is_full_at_one_step(tmp_path: Path, at: str, hit: int) -> None:
    """Whichever: 503, the same upload done again works, and nothing belongs to nobody."""
    async with running(config_for(tmp_path)) as stack:
        told, refused = Told(), 0
        with faults.armed(f"{at}=fail:ENOSPC@{hit}"):
            for _ in range(3):
                try:
                    await upload(stack.client, told, 1)
                except AssertionError as error:  # a step that was not 200; its reply is the message
                    assert "storage_unavailable" in str(error)
                    refused += 1
                else:
                    break
        assert refused == (0 if (at, hit) == ("adapter.after_rename", 2) else 1)
        assert await find(stack.client, 1) in told.uploads
        assert len(list((tmp_path / "state" / "adapters").iterdir())) == 1
        await serves(stack.client, told, 1)
        uploads = tmp_path / "state" / "uploads"
        assert {one.name for one in uploads.iterdir()} <= {one.name for one in uploads.glob("upload-*")}
        assert await is_sound(stack)


def send_half(service: Service, path: str, data: bytes) -> None:
    """A request whose connection is cut before its body is whole."""
    head = f"PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode() + data[: len(data) // 2])
        time.sleep(0.3)


async def test_the_learner_goes_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    """Its connection is cut: what arrived is kept, the next connection goes on there, nothing is logged as an error."""
    service = Service(tmp_path, settings=SETTINGS, alias=ALIAS)
    service.start()
    try:
        tensors, told = adapter_bytes(rank=2, inputs=600_000, outputs=4), Told()
        async with service.client() as client:
            session = await begin(client, tensors)
            path = f"/v1/adapters/{session}/files/{NAME}"
            await asyncio.to_thread(send_half, service, path, tensors)
            small = await call(client, "PUT", f"/v1/adapters/{session}/files/adapter_config.json", content=CONFIG)
            arrived = small["received"][NAME]
            assert 1024 * 1024 <= arrived <= len(tensors) // 2
            rest: dict[str, Any] = {
                "params": {"offset": arrived},
                "content": tensors[arrived:],
                "headers": {"x-content-sha256": hashlib.sha256(tensors[arrived:]).hexdigest()},
            }
            assert (await call(client, "PUT", path, **rest))["missing"] == []
            adapter = (await call(client, "POST", f"/v1/adapters/{session}/commit"))["id"]
            await call(client, "POST", f"/v1/adapters/{adapter}/reject", json={})
            await tell(client, told)
        assert service.stop() == 0
        assert "Traceback" not in service.log_file.read_text()
        assert await service.check() == []
    finally:
        service.kill()

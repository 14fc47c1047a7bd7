"""The whole application on a fake engine, spoken to over HTTP: everything but vLLM is real."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from pydantic import SecretStr

from server.app import create_app
from server.config import AliasConfig, Config, HttpConfig, RuleConfig, ScorerConfig, SignalsConfig, StoreConfig
from server.engine.fake import FakeEngine
from server.engine.port import Replica
from server.engine.supervisor import EngineSupervisor
from server.installation import Installation
from server.services import Services

CHAT = "/v1/chat/completions"


def data_url(*, size: tuple[int, int] = (32, 32), kind: str = "PNG", colour: str = "red", **save: Any) -> str:
    """A real image as a data: URL."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format=kind, **save)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def chat_body(**changes: Any) -> dict[str, Any]:
    """A good request about one image."""
    image = {"type": "image_url", "image_url": {"url": data_url()}}
    content = [image, {"type": "text", "text": "What is this?"}]
    return {"model": "default", "messages": [{"role": "user", "content": content}], "seed": 1, **changes}


def assert_openai_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> None:
    """The one error shape, with a request id."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    assert error["message"]
    assert response.headers["x-request-id"]
    if param is not None:
        assert error["param"] == param


@dataclass
class Stack:
    """A running application and what a test wants to reach of it."""

    client: httpx.AsyncClient
    engine: FakeEngine
    services: Services

    @functools.cached_property
    def app(self) -> FastAPI:
        """For what httpx's transport cannot do."""
        return create_app(self.services)

    async def chat(self, **changes: Any) -> dict[str, Any]:
        response = await self.client.post(CHAT, json=chat_body(**changes))
        assert response.status_code == 200, response.text
        return response.json()


def config_for(directory: Path, *, url: str = "", **alias: Any) -> Config:
    settings: dict[str, Any] = {
        "rules": (RuleConfig(name="secret", kind="pattern", pattern="forbidden word"),),
        "scorers": (ScorerConfig(kind="logprob"),),
        "signals": SignalsConfig(holdout_share=0.0),
    }
    return Config(
        http=HttpConfig(metrics_port=0),
        store=StoreConfig(directory=directory, url=SecretStr(url)),
        aliases=(AliasConfig(**(settings | alias)),),
    )


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(base_model="clients/demo/shapes_vlm")


Opener = Callable[[Config], Any]


@pytest.fixture
async def open_stack(engine: FakeEngine) -> AsyncIterator[Opener]:
    """Opens applications on the fake engine; all are closed after the test."""
    opened: list[tuple[Installation, httpx.AsyncClient]] = []

    def connect(config: Config) -> list[tuple[Replica, EngineSupervisor]]:
        return [(engine, EngineSupervisor(engine, None, probe_interval_s=0.05))]

    async def open_one(config: Config) -> Stack:
        installation = Installation(config, connect)
        services = await installation.open()
        transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        opened.append((installation, client))
        await services.engine.wait_ready(5.0)
        return Stack(client, engine, services)

    yield open_one
    for installation, client in opened:
        await client.aclose()
        await installation.close()


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each database in turn: SQLite in the state's directory (no URL), and an empty one of a real PostgreSQL."""
    if request.param == "sqlite":
        yield ""
        return
    cluster = request.getfixturevalue("postgres")
    url = cluster.create()
    yield url
    cluster.drop(url)


@pytest.fixture
async def each_stack(store_url: str, open_stack: Opener, tmp_path: Path) -> Stack:
    """The application on each database in turn."""
    return await open_stack(config_for(tmp_path, url=store_url))


@pytest.fixture
async def stack(open_stack: Opener, tmp_path: Path) -> Stack:
    return await open_stack(config_for(tmp_path))

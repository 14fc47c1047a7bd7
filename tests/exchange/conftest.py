"""Whole servers on a fake engine, each on a port of its own, spoken to by the SDK and the command line."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from clients.client import PlumblineClient
from server.app import create_app
from server.config import AliasConfig, Config, HttpConfig, RuleConfig, ScorerConfig, SignalsConfig, StoreConfig
from server.engine.fake import FakeEngine
from server.engine.port import Replica
from server.engine.supervisor import EngineSupervisor
from server.installation import Installation
from server.services import Services
from tests.api.conftest import CHAT, chat_body
from tests.engine_fixture import background_loop, call

ALIAS = "default"


@dataclass
class Site:
    """A running server."""

    url: str
    engine: FakeEngine
    services: Services
    loop: asyncio.AbstractEventLoop

    def client(self) -> PlumblineClient:
        return PlumblineClient(self.url, max_attempts=1)

    def chat(self, **changes: Any) -> dict[str, Any]:
        reply = httpx.post(self.url + CHAT, json=chat_body(**changes))
        assert reply.status_code == 200, reply.text
        return reply.json()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = httpx.post(self.url + path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def export(self, **options: Any) -> list[dict[str, Any]]:
        with self.client() as client:
            return list(client.export_preferences(ALIAS, **options))

    def feed(self) -> list[Any]:
        """Every entry of the change log."""
        entries: list[Any] = []
        with self.client() as client:
            while True:
                page = client.training_feed(ALIAS, entries[-1].seq if entries else 0, 1000)
                if not page.entries:
                    return entries
                entries += page.entries

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return call(self.loop, coroutine)

    def read(self, operation: Callable[[Any], Any]) -> Any:
        return self.run(self.services.database.read(operation))

    def write(self, operation: Callable[[Any], Any]) -> None:
        def write(connection: Any) -> None:
            operation(connection)

        self.run(self.services.database.write(write))


OpenSite = Callable[..., Site]


@pytest.fixture(params=["sqlite", "postgres"])
def new_url(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Addresses of new databases: every test that takes this runs on each kind."""
    if request.param == "sqlite":
        yield lambda: ""
        return
    cluster = request.getfixturevalue("postgres")
    urls: list[str] = []

    def create() -> str:
        urls.append(cluster.create())
        return urls[-1]

    yield create
    for url in urls:
        cluster.drop(url)


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[OpenSite]:
    """Opens servers; all are closed after the test."""
    with ExitStack() as stack:
        loop = stack.enter_context(background_loop())
        count = 0

        def open_one(url: str = "", *, http: dict[str, Any] | None = None, **alias: Any) -> Site:
            nonlocal count
            count += 1
            settings: dict[str, Any] = {
                "name": ALIAS,
                "rules": (RuleConfig(name="secret", kind="pattern", pattern="forbidden word"),),
                "scorers": (ScorerConfig(kind="logprob"),),
                "signals": SignalsConfig(holdout_share=0.0),
            }
            config = Config(
                http=HttpConfig(metrics_port=0, **(http or {})),
                store=StoreConfig(directory=tmp_path / f"state-{count}", url=SecretStr(url)),
                aliases=(AliasConfig(**(settings | alias)),),
            )
            engine = FakeEngine(base_model="clients/demo/shapes_vlm")

            def connect(config: Config) -> list[tuple[Replica, EngineSupervisor]]:
                return [(engine, EngineSupervisor(engine, None, probe_interval_s=0.05))]

            installation = Installation(config, connect)
            services = call(loop, installation.open())
            stack.callback(lambda: call(loop, installation.close()))
            call(loop, services.engine.wait_ready(5.0))
            return Site(_serve(services, loop, stack), engine, services, loop)

        yield open_one


@pytest.fixture
def site(open_site: OpenSite) -> Site:
    return open_site()


def _serve(services: Services, loop: asyncio.AbstractEventLoop, stack: ExitStack) -> str:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # who comes before the server accepts waits
    server = uvicorn.Server(uvicorn.Config(create_app(services), lifespan="off", log_config=None, access_log=False))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.run_coroutine_threadsafe(server._serve([listener]), loop)

    def stop() -> None:
        server.should_exit = True
        serving.result(10)

    stack.callback(stop)
    return f"http://127.0.0.1:{listener.getsockname()[1]}"

"""The whole service on a fake engine behind its real HTTP server, in a thread, for clients that speak bytes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from server.app import bind, build_server
from server.config import Config, HttpConfig, StoreConfig
from server.engine.fake import FakeEngine
from server.engine.supervisor import EngineSupervisor
from server.installation import Installation
from server.keys import hash_key
from server.services import Services
from server.store import keys
from server.store.keys import KeyRecord
from tests.api.conftest import CHAT, config_for
from tests.api.keyed import ROLES
from tests.engine_fixture import background_loop, call

T = TypeVar("T")

GOOD = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "best_of": 1, "max_tokens": 4}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]


@dataclass
class Served:
    """A running service. Keys are `<tenant>-<role>`."""

    services: Services
    port: int
    loop: asyncio.AbstractEventLoop
    directory: Path
    engine: FakeEngine = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return call(self.loop, coroutine)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def exchange(self, data: bytes) -> Answer:
        """Send the bytes on a connection of their own and read one reply."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):  # it may refuse before it has read all
                connection.sendall(data)
            return read_answer(connection)

    def ask(self, method: str, path: str, body: Any = None, *, who: str = "default-app", **headers: str) -> Answer:
        return self.exchange(request(method, path, body, who=who, **headers))

    def still_serves(self) -> None:
        """A known good request is answered."""
        answer = self.ask("POST", CHAT, GOOD)
        assert answer.status == 200, answer.body


def request(method: str, path: str, body: Any = None, *, who: str | None = "default-app", **headers: str) -> bytes:
    """The bytes of a request; `headers` in place of the usual ones, `_` for `-`; an empty one leaves it out."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    usual = {"host": "localhost"}
    if who is not None:
        usual["authorization"] = f"Bearer {who}"
    if body is not None:
        usual |= {"content-type": "application/json", "content-length": str(len(content))}
    usual |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in usual.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def read_answer(connection: socket.socket) -> Answer:
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


def assert_refused(answer: Answer, status: int, code: str | None, param: str | None = None) -> None:
    """The one error shape, with a request id."""
    assert answer.status == status, answer
    assert json.loads(answer.body).keys() == {"error"}
    assert answer.error.keys() == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    assert answer.error["message"]
    if code is not None:
        assert answer.error["code"] == code, answer.error
    if param is not None:
        assert answer.error["param"] == param, answer.error


@contextlib.contextmanager
def served(
    directory: Path, *, require_keys: bool = True, http: Mapping[str, Any] | None = None, **settings: Any
) -> Iterator[Served]:
    """Open for the length of a block; `http` and `settings` change the configuration."""
    listening = HttpConfig(port=0, metrics_port=0, require_keys=require_keys, **(http or {}))
    base = config_for(directory)
    config = Config(
        **({"http": listening, "store": StoreConfig(directory=directory), "aliases": base.aliases} | settings)
    )
    engine = FakeEngine(base_model="clients/demo/shapes_vlm", adapters_dir=directory / "adapters")
    installation = Installation(config, lambda _: [(engine, EngineSupervisor(engine, None, probe_interval_s=0.05))])

    async def start() -> tuple[Services, int, Any]:
        services = await installation.open()
        await services.engine.wait_ready(10.0)
        await services.database.write(_add_keys)
        listener = bind(config)
        server = build_server(services)
        serving = asyncio.create_task(server.serve(sockets=[listener]))

        async def stop() -> None:
            server.should_exit = True
            await serving
            await installation.close()

        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        return services, listener.getsockname()[1], stop

    with background_loop() as loop:
        services, port, stop = call(loop, start())
        try:
            yield Served(services, port, loop, directory, engine)
        finally:
            call(loop, stop())


def _add_keys(connection: Connection) -> None:
    for tenant in ("default", "other"):
        for role in ROLES:
            key = f"{tenant}-{role}"
            keys.add_key(connection, KeyRecord(f"key-{key}", tenant, role), hash_key(key), 0.0)

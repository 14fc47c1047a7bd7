"""A service that is killed and started again, and the ledger that its clients keep."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection, func, select

from clients.toml import to_toml
from server import faults
from server.app import create_app
from server.config import Config, load_config
from server.engine.fake import FakeEngine
from server.engine.supervisor import EngineSupervisor
from server.installation import Installation
from server.integrity import Problem
from server.offline import check
from server.store import groups, schema
from server.store.opening import open_database
from tests.api.conftest import CHAT, Stack, data_url
from tests.faults import disk

RESTART_LIMIT_S = 30.0
BEST_OF = 2
COLOURS = ("red", "green", "blue", "white", "black", "grey")


@contextlib.asynccontextmanager
async def running(config: Config) -> AsyncIterator[Stack]:
    """The application in this process, on the fake engine, for the length of a block."""
    engine = FakeEngine(base_model=config.engine.model, adapters_dir=config.store.directory / "adapters")
    installation = Installation(config, lambda _: [(engine, EngineSupervisor(engine, None, probe_interval_s=0.05))])
    try:
        services = await installation.open()
        transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
        await services.engine.wait_ready(5.0)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Stack(client, engine, services)
    finally:
        await installation.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Service:
    """One installation, through any number of processes."""

    directory: Path
    database_url: str = ""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Sections beside the usual ones."""
    alias: dict[str, Any] = field(default_factory=dict)
    """Settings of the alias beside the usual ones."""

    def __post_init__(self) -> None:
        self.config_file = self.directory / "plumbline.toml"
        self.log_file = self.directory / "server.log"
        store = {"directory": str(self.directory / "state"), "min_free_bytes": 0, "retention_days": 30}
        settings = {
            **self.settings,
            "http": {"port": self.port, "metrics_port": 0},
            "store": {**store, **({"url": self.database_url} if self.database_url else {})},
            "aliases": [
                {
                    "name": "default",
                    "scorers": [{"kind": "logprob"}],
                    "signals": {"holdout_share": 0.2},
                    **self.alias,
                }
            ],
        }
        self.config_file.write_text(to_toml(settings))

    @property
    def config(self) -> Config:
        return load_config(self.config_file)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=20)

    def launch(self, *, at: str = "", on_disk: str = "", limits: Any = None) -> subprocess.Popen[bytes]:
        """Start a process, with faults armed at our points and at the disk; ready or not."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.serve", "--config", str(self.config_file)],
                env={**os.environ, faults.VARIABLE: at, disk.VARIABLE: on_disk, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                preexec_fn=limits,  # noqa: PLW1509 - it only calls setrlimit
            )
        return self.process

    def start(self, *, at: str = "", on_disk: str = "", limits: Any = None) -> float:
        """Start and wait until it is ready; the seconds it took."""
        started = time.monotonic()
        process = self.launch(at=at, on_disk=on_disk, limits=limits)
        while time.monotonic() - started < RESTART_LIMIT_S:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return time.monotonic() - started
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"not ready after a start:\n{self.log_tail()}")

    def wait_until_killed(self, timeout_s: float = 30.0) -> None:
        """The armed fault has killed the process."""
        assert self.process is not None
        assert self.process.wait(timeout_s) == -signal.SIGKILL, self.log_tail()

    def dies(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the process is killed before it is ready; where it is not, it is left running."""
        while process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return False
            time.sleep(0.05)
        assert process.returncode == -signal.SIGKILL, self.log_tail()
        return True

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def log_tail(self) -> str:
        return "\n".join(self.log_file.read_text().splitlines()[-20:])

    async def check(self) -> list[Problem]:
        """What is wrong with the stopped state."""
        return await check(self.config, lambda what, done, total: None)


@dataclass(slots=True)
class Ledger:
    """What the clients were told was kept, and what they never heard of again."""

    chats: dict[str, int] = field(default_factory=dict)
    """Completion → candidates generated, for every answer that came whole."""
    signals: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)
    """Idempotency-Key → (body, reply)."""
    unanswered: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Idempotency-Key → body of calls without a 200."""
    refused: list[httpx.Response] = field(default_factory=list)
    """Replies other than 200."""

    def add(self, other: Ledger) -> None:
        self.chats |= other.chats
        self.signals |= other.signals
        self.unanswered |= other.unanswered

    @property
    def acknowledged(self) -> int:
        return len(self.chats) + len(self.signals)


async def use(service: Service, ledger: Ledger, *, clients: int = 4, rounds: int = 1000, offset: int = 0) -> None:
    """Chat and judge until the service dies, or the rounds are over."""

    async def one(number: int) -> None:
        async with service.client() as client:
            for turn in range(rounds):
                try:
                    await talk(client, ledger, f"{number}-{turn}", stream=turn % 3 == 1)
                except httpx.TransportError:
                    return

    await asyncio.gather(*(one(number) for number in range(offset, offset + clients)))


async def talk(client: httpx.AsyncClient, ledger: Ledger, name: str, *, stream: bool = False) -> None:
    """One answer, and feedback on it."""
    number = hash(name)
    picture = data_url(colour=COLOURS[number % len(COLOURS)], size=(32, 32 + number % 97))
    image = {"type": "image_url", "image_url": {"url": picture}}
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": [image, {"type": "text", "text": f"What is this, {name}?"}]}],
        "best_of": 1 if stream else BEST_OF,
        "user": f"user-{name}",
    }
    completion = await (_streamed(client, ledger, body) if stream else _answered(client, ledger, body))
    if completion is None:
        return
    ledger.chats[completion] = body["best_of"]
    said = {
        "completion_id": completion,
        "user": body["user"],
        "rating": "up" if number % 2 else "down",
        "comment": name,
    }
    key = f"key-{completion}"
    ledger.unanswered[key] = said
    response = await client.post("/v1/feedback", json=said, headers={"idempotency-key": key})
    if response.status_code == 200:
        ledger.signals[key] = (ledger.unanswered.pop(key), response.json())
    else:
        ledger.refused.append(response)


async def _answered(client: httpx.AsyncClient, ledger: Ledger, body: dict[str, Any]) -> str | None:
    response = await client.post(CHAT, json=body)
    if response.status_code != 200:
        ledger.refused.append(response)
        return None
    return str(response.json()["id"])


async def _streamed(client: httpx.AsyncClient, ledger: Ledger, body: dict[str, Any]) -> str | None:
    completion, is_whole = None, False
    async with client.stream("POST", CHAT, json={**body, "stream": True}) as response:
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                is_whole = True
            elif line.startswith("data: "):
                completion = json.loads(line.removeprefix("data: ")).get("id", completion)
    return completion if is_whole else None


async def settle(client: httpx.AsyncClient, ledger: Ledger) -> None:
    """Every call is repeated: what was acknowledged gets the same reply, what was not is done now."""
    for key, (body, reply) in ledger.signals.items():
        again = await client.post("/v1/feedback", json=body, headers={"idempotency-key": key})
        assert again.status_code == 200, again.text
        assert again.json() == reply
    for key, body in list(ledger.unanswered.items()):
        response = await client.post("/v1/feedback", json=body, headers={"idempotency-key": key})
        assert response.status_code == 200, response.text
        ledger.signals[key] = (ledger.unanswered.pop(key), response.json())


def assert_kept(connection: Connection, ledger: Ledger) -> None:
    """Each acknowledged answer is there whole, each acknowledged signal once. After `settle`."""
    found = {group.id: group for group in groups.get_groups(connection, list(ledger.chats))}
    assert set(found) == set(ledger.chats), "an acknowledged answer is lost"
    for completion, generated in ledger.chats.items():
        assert len(found[completion].candidates) == generated
        assert len(found[completion].media) == 1
    table = schema.signals
    counted = connection.execute(select(table.c.group_id, func.count()).group_by(table.c.group_id)).all()
    told = [body["completion_id"] for body, _ in ledger.signals.values()]
    assert {one: dict(counted).get(one) for one in told} == dict.fromkeys(told, 1), "a signal is lost, or there twice"


async def assert_all_there(service: Service, ledger: Ledger) -> None:
    """The same for the state of a stopped service."""
    database = open_database(service.config.store)
    try:
        await database.start()
        await database.read(lambda connection: assert_kept(connection, ledger))
    finally:
        await database.close()

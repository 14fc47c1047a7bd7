"""The real service as its own process, on the session's real engine, spoken to as its users would."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from clients.client import PlumblineClient
from clients.stack import free_port
from clients.toml import to_toml
from server.wire.adapters import AdapterManifest
from server.wire.identity import directory_digest
from tests.engine_fixture import EngineSession, write_random_adapter

ALIAS = "shapes"
PERMISSIVE_GATE = {"max_kl": 1000.0, "max_length_ratio": 1000.0, "safety_margin": 1.0}
"""Lets an untrained adapter through: what is tested is the way, not the taste."""


@dataclass
class Service:
    """One server process on a state directory that outlives it."""

    config_file: Path
    url: str
    metrics_url: str
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "--config", str(self.config_file)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        pytest.fail(f"not ready: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """What a power cut does to the process."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="local", max_retries=0)

    def async_openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="local", max_retries=0)

    def operator(self) -> PlumblineClient:
        return PlumblineClient(self.url)


def settings(engine: EngineSession, state: Path, **alias: Any) -> dict[str, Any]:
    return {
        "http": {"port": free_port(), "metrics_port": free_port()},
        "engine": {"urls": [engine.url], "model": engine.model, "probe_interval_s": 0.5},
        "store": {"directory": state},
        "aliases": [
            {
                "name": ALIAS,
                "best_of": 2,
                "rules": [{"name": "access_code", "kind": "pattern", "pattern": r"access code is \d"}],
                "signals": {"holdout_share": 0.0},
                "gate": PERMISSIVE_GATE,
                "rollout": {
                    "canary_requests": 5,
                    "canary_share": 0.5,
                    "inconclusive_share": 0.5,
                    "min_canary_s": 0,
                    "cooldown_s": 0,
                    "max_moves_per_hour": 1000,
                },
                "learner": {"min_new_signals": 1, "epochs": 2},
            }
            | alias
        ],
    }


def make_service(engine: EngineSession, directory: Path, **alias: Any) -> Service:
    """The state directory is the one whose `adapters/` the session's engine reads."""
    tree = settings(engine, engine.adapters_dir.parent, **alias)
    config_file = directory / "plumbline.toml"
    config_file.write_text(to_toml(tree))
    http = tree["http"]
    return Service(
        config_file,
        f"http://127.0.0.1:{http['port']}",
        f"http://127.0.0.1:{http['metrics_port']}/metrics",
        directory / "server.log",
    )


@pytest.fixture
def service(engine_session: EngineSession, tmp_path: Path) -> Iterator[Service]:
    one = make_service(engine_session, tmp_path)
    one.start()
    yield one
    one.stop()


def upload_random_adapter(
    service: Service, engine: EngineSession, directory: Path, *, seed: int, scale: float = 0.05, parent: str = "base"
) -> str:
    """Upload an untrained adapter as an operator would upload somebody's own; its id."""
    written = write_random_adapter(directory, f"random-{seed}", engine.model, scale, seed)
    files = {name: (written / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}
    manifest = AdapterManifest.model_validate(
        {
            "alias": ALIAS,
            "parent": parent,
            "base_digest": directory_digest(engine.model_dir),
            "files": [
                {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            ],
        }
    )
    with service.operator() as operator:
        return operator.upload_adapter(manifest, files).id


async def wait_for_state(service: Service, adapter: str, state: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    with service.operator() as operator:
        while True:
            found = operator.adapter(adapter)
            if found.state == state:
                return
            final = {"rejected", "rolled_back", "quarantined"}
            if found.state in final or time.monotonic() > deadline:
                pytest.fail(f"{adapter} is {found.state}, not {state}: {operator.adapter_report(adapter)}")
            await asyncio.sleep(0.1)

"""A real Prometheus on loopback for a test, with our configuration and other targets."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.queries import PROMETHEUS

REQUIRED = "PLUMBLINE_REQUIRE_PROMETHEUS"
"""Set (by `make test-all`): a missing Prometheus fails the tests instead of skipping them."""
HOW_TO_INSTALL = "Prometheus is not installed. On Debian: apt-get install -y prometheus"


def program(name: str) -> str:
    """Path of `prometheus` or `promtool`; skips the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get(REQUIRED):
            pytest.fail(HOW_TO_INSTALL)
        pytest.skip(HOW_TO_INSTALL)
    return found


def promtool(*arguments: str, **options: Any) -> str:
    """What promtool says; fails the test where it objects."""
    done = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=120, **options
    )
    assert done.returncode == 0, f"promtool {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as reply:
            return json.load(reply)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector."""
        return self.get("/api/v1/query", query=expression)["result"]

    def until(self, expression: str, *, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """The vector, once it is not empty."""
        end = time.monotonic() + timeout_s
        while not (found := self.query(expression)):
            assert time.monotonic() < end, f"nothing for {expression}"
            time.sleep(0.2)
        return found


@contextlib.contextmanager
def running(directory: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Prometheus with `deploy/prometheus/prometheus.yml`, but for the jobs' targets and the pace."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    jobs = {one["job_name"]: one for one in config["scrape_configs"]}
    config["scrape_configs"] = [
        jobs[name] | {"static_configs": [{"targets": [target]}]} for name, target in targets.items()
    ]
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            yield _ready(Prometheus(f"http://{address}"), process, directory / "prometheus.log")
        finally:
            process.terminate()
            process.wait(timeout=20)


def _ready(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> Prometheus:
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=2).close()
            return prometheus
        time.sleep(0.1)

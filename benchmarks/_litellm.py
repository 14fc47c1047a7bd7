"""The peer of `benchmarks.gateway`: a LiteLLM proxy, in an environment of its own under `build/`.

Its dependencies are pinned to other versions than ours, so it is never installed beside us. One worker, no database, no
callbacks, quiet: what its own guide recommends for production, without the parts that would cost it time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from clients.stack import HOST, Command, StackError, free_port

VERSION: Final = "1.106.0"
ENVIRONMENT: Final = Path("build") / f"litellm-{VERSION}"
START_TIMEOUT_S: Final = 180.0
SETTINGS: Final = {
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no keys on loopback, as with us: no time for them
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no look at the internet at its start
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
}


class NotInstalled(Exception):
    """The peer cannot be had here; the message says why."""


def install() -> Path:
    """The proxy's command; made at the first call, which takes minutes. Raises `NotInstalled`."""
    command = ENVIRONMENT / "bin" / "litellm"
    if command.exists():
        return command
    try:
        for step in (
            [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
            [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", f"litellm[proxy]=={VERSION}"],
        ):
            subprocess.run(step, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalled(f"litellm {VERSION}: {lines[-1] if lines else error}") from error
    return command


class LiteLlm:
    """A running proxy before `engine_url`, on `url`; its one model is called `MODEL`."""

    MODEL: Final = "noop"

    def __init__(self, command: Path, directory: Path, engine_url: str) -> None:
        self._config = directory / "litellm.yaml"
        parameters = {"model": f"openai/{self.MODEL}", "api_base": f"{engine_url}/v1", "api_key": "none"}
        # YAML holds JSON.
        self._config.write_text(
            json.dumps(
                {
                    "model_list": [{"model_name": self.MODEL, "litellm_params": parameters}],
                    "litellm_settings": {"set_verbose": False, "telemetry": False},
                }
            ),
            encoding="utf-8",
        )
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        arguments = ["--config", str(self._config), "--host", HOST, "--port", str(port), "--num_workers", "1"]
        self._command = Command("LiteLLM proxy", [str(command), *arguments], directory / "litellm.log", SETTINGS)

    @property
    def pid(self) -> int:
        assert self._command.pid is not None
        return self._command.pid

    def __enter__(self) -> LiteLlm:
        """Start it and wait for it; raises `StackError`."""
        self._command.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_up():
            self._command.require_running()
            if time.monotonic() > deadline:
                self._command.stop()
                raise StackError(f"not up after {START_TIMEOUT_S:.0f} s; {self._command.last_words()}")
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._command.stop()

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/liveliness", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

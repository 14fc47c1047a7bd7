"""The peer of `benchmarks.gateway`: a LiteLLM proxy, in an environment of its own under `build/`.

Its dependencies are pinned to other versions than ours, so it is never installed beside us. One worker, no database, no
callbacks, quiet: what its own guide recommends for production, without the parts that would cost it time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from benchmarks._peer import Proxy, make_environment
from clients.stack import HOST, Command, free_port

VERSION: Final = "1.106.0"
ENVIRONMENT: Final = Path("build") / f"litellm-{VERSION}"
START_TIMEOUT_S: Final = 180.0
SETTINGS: Final = {
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no keys on loopback, as with us: no time for them
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no look at the internet at its start
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
}


def install() -> Path:
    """The proxy's command; made at the first call, which takes minutes. Raises `NotInstalled`."""
    command = ENVIRONMENT / "bin" / "litellm"
    if command.exists():
        return command
    make_environment(f"litellm {VERSION}", ENVIRONMENT, [f"litellm[proxy]=={VERSION}"])
    return command


class LiteLlm(Proxy):
    """A running proxy before `engine_url`, on `url`; its one model is called `MODEL`."""

    MODEL: Final = "noop"

    def __init__(self, command: Path, directory: Path, engine_url: str) -> None:
        config = directory / "litellm.yaml"
        parameters = {"model": f"openai/{self.MODEL}", "api_base": f"{engine_url}/v1", "api_key": "none"}
        # YAML holds JSON.
        config.write_text(
            json.dumps(
                {
                    "model_list": [{"model_name": self.MODEL, "litellm_params": parameters}],
                    "litellm_settings": {"set_verbose": False, "telemetry": False},
                }
            ),
            encoding="utf-8",
        )
        port = free_port()
        arguments = ["--config", str(config), "--host", HOST, "--port", str(port), "--num_workers", "1"]
        process = Command("LiteLLM proxy", [str(command), *arguments], directory / "litellm.log", SETTINGS)
        super().__init__(process, port, "/health/liveliness", START_TIMEOUT_S)

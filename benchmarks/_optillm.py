"""The peer of `benchmarks.best_of_n`: an optillm proxy, in an environment of its own (`.venv-optillm`).

Its package asks for torch, transformers and much else that its best-of-n never imports. So it is installed without its
dependencies, beside those that its server does import; plugins that miss theirs are left out by optillm itself.

It asks the model for a rating in at most 256 tokens and expects a number. A model that follows no instructions talks on
until then, and all that time would count for us. `short_ratings` ends each rating as if the model had said a number.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from benchmarks._peer import NotInstalled, Proxy, make_environment
from clients.stack import HOST, Command, free_port

VERSION: Final = "0.4.0"
ENVIRONMENT: Final = Path(".venv-optillm")
IMPORTED: Final = (
    "aiohttp", "azure-identity", "cerebras_cloud_sdk", "flask", "math-verify", "networkx", "numpy", "openai", "PyYAML",
    "requests", "sympy", "z3-solver<=4.15.4.0",
)  # fmt: skip
"""What `optillm.server` imports."""
START_TIMEOUT_S: Final = 120.0
RATING_TOKENS: Final = 256
"""What optillm asks for when it asks for a rating; nothing else that it sends has this limit here."""
NUMBER_TOKENS: Final = 3
"""Of a number up to 10, and the end."""
SETTINGS: Final = {"OPENAI_API_KEY": "none"}


def install() -> Path:
    """The proxy's command; made at the first call, which takes a minute. Raises `NotInstalled`."""
    command, python = ENVIRONMENT / "bin" / "optillm", ENVIRONMENT / "bin" / "python"
    if _can_be_imported(python):
        return command
    make_environment(f"optillm {VERSION}", ENVIRONMENT, IMPORTED, ["--no-deps", f"optillm=={VERSION}"])
    if not _can_be_imported(python):
        raise NotInstalled(f"optillm {VERSION}: installed, but {python} cannot import it")
    return command


def _can_be_imported(python: Path) -> bool:
    if not python.exists():
        return False
    asked = f"import optillm.server; from importlib.metadata import version; assert version('optillm') == '{VERSION}'"
    return subprocess.run([str(python), "-c", asked], check=False, capture_output=True).returncode == 0


class OptiLlm(Proxy):
    """A running proxy before `engine_url`, on `url`, whose every answer is its best of `count`."""

    def __init__(self, command: Path, directory: Path, engine_url: str, count: int) -> None:
        port = free_port()
        arguments = [
            *("--host", HOST, "--port", str(port), "--log", "error", "--base-url", f"{engine_url}/v1"),
            *("--approach", "bon", "--best-of-n", str(count)),
        ]
        process = Command("optillm proxy", [str(command.resolve()), *arguments], directory / "optillm.log", SETTINGS)
        super().__init__(process, port, "/health", START_TIMEOUT_S)


@asynccontextmanager
async def short_ratings(port: int, engine_url: str) -> AsyncIterator[None]:
    """On this port the engine, but for ratings: they end after `NUMBER_TOKENS`."""
    async with aiohttp.ClientSession() as session:

        async def relay(request: web.Request) -> web.Response:
            body = await request.json()
            if body.get("max_tokens") == RATING_TOKENS:
                body["max_tokens"] = NUMBER_TOKENS
            async with session.post(f"{engine_url}{request.path}", json=body) as reply:
                return web.Response(body=await reply.read(), status=reply.status, content_type="application/json")

        app = web.Application()
        app.router.add_post("/v1/chat/completions", relay)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port).start()
            yield
        finally:
            await runner.cleanup()

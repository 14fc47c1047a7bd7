"""Scores by an operator's command: one process for each prompt, under limits of time, memory and output.

It reads one JSON object from standard input, `{"messages": [...], "candidates": [{"index", "text",
"finish_reason"}]}` (messages as OpenAI writes them; images by sha256 unless asked for), and writes a JSON list with a
number or null for each candidate. Its exit status must be 0. A late, cancelled or chatty one is killed with all that
it started. It runs with the server's rights but with none of its variables other than `KEPT`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from reward.types import Candidate, Image, Prompt
from server.config.scorers import ProgramConfig
from server.engine.guard import end_group
from server.engine.payload import data_url
from server.scorers import limited
from server.scorers.errors import ScorerError

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
MAX_OUTPUT_BYTES = 1024 * 1024


class ProgramScorer:
    def __init__(self, config: ProgramConfig, name: str = "program") -> None:
        self.name = name
        self.version = sha256("\0".join(config.command).encode()).hexdigest()[:12]
        self._config = config
        self._free = asyncio.Semaphore(config.max_concurrent)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        async with self._free:
            output = await self._run(json.dumps(_described(prompt, candidates, images=self._config.images)).encode())
        return _values(output, len(candidates))

    async def _run(self, described: bytes) -> bytes:
        config, loop = self._config, asyncio.get_running_loop()
        limits = (str(config.max_memory_mb), str(config.max_cpu_s))
        conversation = _Conversation(loop.create_future())
        try:
            transport, _ = await loop.subprocess_exec(
                lambda: conversation,
                *(sys.executable, "-I", "-S", limited.__file__, *limits, *config.command),
                stderr=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in KEPT if name in os.environ},
                start_new_session=True,
            )
        except OSError as error:
            raise ScorerError(f"the program cannot be started: {error.strerror}") from error
        try:
            stdin = transport.get_pipe_transport(0)
            assert isinstance(stdin, asyncio.WriteTransport)
            stdin.write(described)
            stdin.close()  # once all is written
            output = await conversation.ended
            if code := transport.get_returncode():
                raise ScorerError(f"the program ended with status {code}")
            return output
        finally:
            end_group(transport.get_pid())
            transport.close()


class _Conversation(asyncio.SubprocessProtocol):
    """Collects what the program writes; `ended` once it is gone and its output closed."""

    def __init__(self, ended: asyncio.Future[bytes]) -> None:
        self.ended = ended
        self._output = bytearray()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if self.ended.done():
            return
        self._output += data
        if len(self._output) > MAX_OUTPUT_BYTES:
            self.ended.set_exception(ScorerError(f"the program wrote more than {MAX_OUTPUT_BYTES} bytes"))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(bytes(self._output))


def _described(prompt: Prompt, candidates: Sequence[Candidate], *, images: bool) -> dict[str, Any]:
    def part(one: str | Image) -> dict[str, Any]:
        if isinstance(one, str):
            return {"type": "text", "text": one}
        if images:
            return {"type": "image_url", "image_url": {"url": data_url(one)}}
        return {"type": "image", "sha256": one.sha256, "mime": one.mime}

    return {
        "messages": [{"role": turn.role, "content": [part(one) for one in turn.parts]} for turn in prompt.messages],
        "candidates": [
            {"index": place, "text": one.text, "finish_reason": one.finish_reason}
            for place, one in enumerate(candidates)
        ],
    }


def _values(output: bytes, count: int) -> list[float | None]:
    try:
        values = json.loads(output)
    except (ValueError, RecursionError):
        raise ScorerError("the program did not write JSON") from None
    if not isinstance(values, list) or any(
        isinstance(value, bool) or not isinstance(value, int | float | None) for value in values
    ):
        raise ScorerError("the program did not write a JSON list of numbers")
    if len(values) != count:
        raise ScorerError(f"the program wrote {len(values)} numbers for {count} answers")
    return [None if value is None else float(value) for value in values]

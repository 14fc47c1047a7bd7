"""An operator's program: what it is given, what it may answer, and that nothing of it outlives its limits."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from reward.types import Candidate, Image, Message, Prompt
from server.config.scorers import ProgramConfig
from server.scorers.errors import ScorerError
from server.scorers.program import ProgramScorer
from tests.server.engine.waiting import until

IMAGE = Image("f" * 64, "image/png", b"png")
PROMPT = Prompt((Message("user", ("What is it?", IMAGE)),))
TWO = [Candidate(0, "a", "one", (), (), "stop"), Candidate(1, "a", "three", (), (), "length")]


def program(code: str, **settings: object) -> ProgramScorer:
    return ProgramScorer(ProgramConfig.model_validate({"command": (sys.executable, "-c", code), **settings}))


async def test_it_gets_prompt_and_candidates_and_gives_numbers() -> None:
    """JSON in, JSON out, in order; null where it has no opinion."""
    code = """
import json, sys
asked = json.load(sys.stdin)
text, image = asked["messages"][0]["content"]
assert text == {"type": "text", "text": "What is it?"} and image["sha256"] == "f" * 64 and "image_url" not in image
print([len(one["text"]) if one["finish_reason"] == "stop" else "null" for one in asked["candidates"]].__repr__()
      .replace("'", ""))
"""
    assert await program(code).score(PROMPT, TWO) == [3.0, None]


async def test_it_gets_images_where_it_asks_for_them() -> None:
    """As data: URLs."""
    code = "import json,sys; a=json.load(sys.stdin); print([len(a['messages'][0]['content'][1]['image_url']['url']),0])"
    assert await program(code, images=True).score(PROMPT, TWO) == [len("data:image/png;base64,cG5n"), 0.0]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('[1]')", "1 numbers for 2"),
        ("print('hello')", "did not write JSON"),
        ("print('{}')", "JSON list"),
        ("print('[true, 1]')", "JSON list"),
        ("print('[\"1\", 1]')", "JSON list"),
        ("raise SystemExit(3)", "status 3"),
        ("while True: print('x' * 65536)", "wrote more than"),
        ("x = bytearray(2**30)", "status 1"),
        ("print('[' * 100000)", "did not write JSON"),
    ],
)
async def test_what_it_must_not_do(code: str, reason: str) -> None:
    """A wrong answer, a bad end, too much output, too much memory: each is an error in words."""
    with pytest.raises(ScorerError, match=reason):
        await program(code, max_memory_mb=256).score(PROMPT, TWO)


async def test_processor_time_is_limited() -> None:
    """A busy loop ends by itself, whatever the deadline."""
    started = time.monotonic()
    with pytest.raises(ScorerError, match="status -9"):
        await program("while True: pass", max_cpu_s=1).score(PROMPT, TWO)
    assert time.monotonic() - started < 20


async def test_a_command_that_does_not_exist() -> None:
    """An error, as any other."""
    with pytest.raises(ScorerError, match="status 127"):
        await ProgramScorer(ProgramConfig(command=("/nowhere/at-all",))).score(PROMPT, TWO)


async def test_what_is_late_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """A deadline leaves no process behind."""
    pids = tmp_path / "pids"
    code = f"""
import os, subprocess, time
child = subprocess.Popen(["sleep", "60"])
with open({str(pids)!r} + ".new", "w") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}")
os.rename({str(pids)!r} + ".new", {str(pids)!r})
time.sleep(60)
"""
    running = asyncio.create_task(program(code).score(PROMPT, TWO))
    await until(pids.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    mine, child = map(int, pids.read_text().split())
    await until(lambda: not (_runs(mine) or _runs(child)))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_it_does_not_see_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few harmless variables reach it."""
    monkeypatch.setenv("PLUMBLINE_SECRET", "s3cret")
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    code = "import os; print([sum('s3cret' in v for v in os.environ.values()), int('PATH' in os.environ)])"
    assert await program(code).score(PROMPT, TWO) == [0.0, float("PATH" in os.environ)]

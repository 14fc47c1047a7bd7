"""I7, taste fails open: whatever a scorer does, it is left out, the answer is marked degraded, the others choose.

Each scorer that depends on somebody else, with each thing that somebody else can do, through the real judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from reward.policy import SafetyPolicy
from reward.types import Candidate
from server.config.scorers import ClipConfig, ScorerConfig
from server.engine.fake import FakeEngine
from server.engine.port import EngineError, ScoredAnswer
from server.pipeline.judges import Judges, build_ensemble
from server.scorers import watched
from server.scorers.clip import ClipWorker
from server.scorers.errors import ScorerError
from server.scorers.factory import ScorerFactory
from tests.server.engine.waiting import until
from tests.server.scorers.endpoint import PROMPT, endpoint_that, verdict

FAULTS = ("crash", "hang", "nan", "wrong length", "constant")
TIMEOUT_S = 2.0
HTTP = ("judge pointwise", "judge pairwise", "pooling classify", "pooling pooling", "pooling score")


def candidates(start: int, count: int) -> list[Candidate]:
    """Different answers; the later the likelier by `logprob`, so that the best is the last."""
    return [
        Candidate(place, "base", f"answer {start + place}", (1,), (-1.0 / (1 + place),), "stop")
        for place in range(count)
    ]


def http_reply(kind: str, fault: str) -> Callable[[dict[str, Any]], Any]:
    async def hang() -> None:
        await asyncio.sleep(60)

    def reply(body: dict[str, Any]) -> Any:
        if fault == "crash":
            return web.Response(status=500, text="answer 1 is the best; key s3cret")
        if fault == "hang":
            return hang()
        if kind == "judge pointwise":
            said = {"nan": '{"score": NaN}', "wrong length": '{"score": [1, 2]}', "constant": '{"score": 7}'}
            return verdict(said[fault])
        if kind == "judge pairwise":
            said = {"nan": '{"better": NaN}', "wrong length": '{"better": []}', "constant": '{"better": "tie"}'}
            return verdict(said[fault])
        count = len(body["documents"]) if kind == "pooling score" else 1
        value = math.nan if fault == "nan" else 0.5
        extra = 1 if fault == "wrong length" else 0
        return {"data": [{"index": i, "score": value, "probs": [value], "data": [value]} for i in range(count + extra)]}

    return reply


PROGRAMS = {
    "crash": "raise SystemExit(1)",
    "hang": "import time; time.sleep(60)",
    "nan": "import json,sys; print([float('nan') for _ in json.load(sys.stdin)['candidates']].__repr__()"
    ".replace('nan', 'NaN'))",
    "wrong length": "print([1.0])",
    "constant": "import json,sys; print([1.0 for _ in json.load(sys.stdin)['candidates']])",
}
WORKERS = {
    "crash": "raise SystemExit(1)",
    "hang": "time.sleep(60)",
    "nan": "write({'jobs': [[float('nan') for _ in job['texts']] for job in jobs]})",
    "wrong length": "write({'jobs': [[1.0] for job in jobs]})",
    "constant": "write({'jobs': [[1.0 for _ in job['texts']] for job in jobs]})",
}
WORKER = """#!{python}
import json, os, struct, sys, time
source, target = sys.stdin.buffer, sys.stdout.buffer
def write(content):
    data = json.dumps(content).encode()
    target.write(struct.pack(">I", len(data)) + data)
    target.flush()
write({{"ready": True}})
while start := source.read(4):
    jobs = json.loads(source.read(struct.unpack(">I", start)[0]))["jobs"]
    for job in jobs:
        for length in job["images"]:
            source.read(length)
    {act}
"""


class BrokenEngine(FakeEngine):
    """Its scores go wrong in one way."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    async def score(self, model: str, prompt: Any, answer: str) -> ScoredAnswer:
        match self.fault:
            case "crash":
                raise EngineError("gone")
            case "hang":
                await asyncio.sleep(60)
            case "nan":
                return ScoredAnswer((1,), (math.nan,))
        return ScoredAnswer((1, 2), (-1.0, -1.0))  # the answer's encoding is longer than what was sampled


@contextlib.asynccontextmanager
async def broken(kind: str, fault: str, directory: Path) -> AsyncIterator[Judges]:
    """Judges with a good scorer and a broken one, both of weight 1."""
    async with contextlib.AsyncExitStack() as stack:
        settings: dict[str, Any] = {"kind": kind.split(maxsplit=1)[0], "name": "broken", "timeout_s": TIMEOUT_S}
        if kind in HTTP:
            if fault == "hang":
                settings["timeout_s"] = 0.3
            endpoint = await stack.enter_async_context(endpoint_that(http_reply(kind, fault)))
            name, way = kind.split()
            own = {"url": endpoint.url, "model": "m", "mode" if name == "judge" else "route": way}
            settings[name] = own
        elif kind == "program":
            settings["program"] = {"command": [sys.executable, "-c", PROGRAMS[fault]]}
        elif kind == "clip":
            script = directory / "worker"
            script.write_text(WORKER.format(python=sys.executable, act=WORKERS[fault]))
            script.chmod(0o755)
            settings["clip"] = {"model": "m", "python": str(script)}
        factory = ScorerFactory(BrokenEngine(fault))
        stack.push_async_callback(factory.close)
        scorers = [ScorerConfig(kind="logprob"), ScorerConfig.model_validate(settings)]
        yield Judges(SafetyPolicy(), build_ensemble(scorers, factory))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [*HTTP, "program", "clip"])
async def test_a_scorer_that_goes_wrong_is_left_out(kind: str, fault: str, tmp_path: Path) -> None:
    """Named as degraded; the totals are those of the other scorer alone, and none is a number by chance."""
    rounds = 1 if fault != "constant" else 1 + watched.WINDOW // 8
    async with broken(kind, fault, tmp_path) as judges:
        for number in range(rounds):
            # A pairwise judge that finds all equal is consistent; everything it says is 0, which is constant too.
            found, degraded = await judges.judge(PROMPT, candidates(8 * number, 8))
    assert degraded == ("broken",)
    totals = [one.total for one in found]
    best = max(range(8), key=lambda place: found[place].scores[0].value or -math.inf)
    assert None not in totals
    assert totals[best] == max(total for total in totals if total is not None)
    assert all(one.scores[1].value is None for one in found)


@pytest.mark.parametrize("fault", ["crash", "hang", "nan", "wrong length"])
async def test_the_implicit_scorer_without_its_base_half(fault: str, tmp_path: Path) -> None:
    """A broken engine leaves it out, and so does an encoding that does not fit what was sampled."""
    scorers = [ScorerConfig(kind="logprob"), ScorerConfig(kind="implicit", timeout_s=0.3)]
    judges = Judges(SafetyPolicy(), build_ensemble(scorers, ScorerFactory(BrokenEngine(fault))))
    adapted = [Candidate(i, "a-1", f"answer {i}", (1,), (-1.0 / (1 + i),), "stop") for i in range(3)]
    found, degraded = await judges.judge(PROMPT, adapted)
    assert degraded == ("implicit",)
    assert found[2].total == max(one.total for one in found if one.total is not None)


async def test_a_constant_scorer_counts_again_once_it_says_something_else() -> None:
    """It is asked all the while."""
    value = [0.5]
    async with endpoint_that(lambda body: {"data": [{"index": 0, "probs": [value[0]]}]}) as endpoint:
        factory = ScorerFactory(None)
        settings = {"kind": "pooling", "pooling": {"url": endpoint.url, "model": "m"}}
        judges = Judges(SafetyPolicy(), build_ensemble([ScorerConfig.model_validate(settings)], factory))
        marks = [(await judges.judge(PROMPT, candidates(8 * number, 8)))[1] for number in range(9)]
        assert marks == [()] * 7 + [("pooling",)] * 2
        value[0] = 2.0
        assert (await judges.judge(PROMPT, candidates(100, 8)))[1] == ()
        await factory.close()


async def test_the_same_answer_many_times_is_no_constant_scorer() -> None:
    """Only different answers count."""
    async with endpoint_that(lambda body: {"data": [{"index": 0, "probs": [0.5]}]}) as endpoint:
        factory = ScorerFactory(None)
        settings = {"kind": "pooling", "pooling": {"url": endpoint.url, "model": "m"}}
        judges = Judges(SafetyPolicy(), build_ensemble([ScorerConfig.model_validate(settings)], factory))
        for _ in range(20):
            assert (await judges.judge(PROMPT, candidates(0, 8)))[1] == ()
        for number in range(100):
            assert (await judges.judge(PROMPT, candidates(number, 1) * 2))[1] == (), "nor one answer said twice"
        await factory.close()


async def test_what_an_endpoint_says_in_its_own_words_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It may quote an answer, or a key."""
    async with endpoint_that(http_reply("pooling classify", "crash")) as endpoint:
        factory = ScorerFactory(None)
        settings = {"kind": "pooling", "name": "rm", "pooling": {"url": endpoint.url, "model": "m"}}
        judges = Judges(SafetyPolicy(), build_ensemble([ScorerConfig.model_validate(settings)], factory))
        for _ in range(3):
            await judges.judge(PROMPT, candidates(0, 2))
        await factory.close()
    assert [one.getMessage() for one in caplog.records] == ["scorer rm: the endpoint answered HTTP 500"], (
        "once a minute"
    )
    assert "s3cret" not in caplog.text


async def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    """After a pause in which nobody is kept waiting."""
    script, flag = tmp_path / "worker", tmp_path / "died"
    act = f"open({str(flag)!r}, 'x') and sys.exit(1) if not os.path.exists({str(flag)!r}) else " + WORKERS["constant"]
    script.write_text(WORKER.format(python=sys.executable, act=act))
    script.chmod(0o755)
    factory = ScorerFactory(None)
    settings = {"kind": "clip", "clip": {"model": "m", "python": str(script)}}
    scorer = factory.build(ScorerConfig.model_validate(settings))
    with pytest.raises(ScorerError, match="the worker died"):
        await scorer.score(PROMPT, candidates(0, 2))
    with pytest.raises(ScorerError, match="not yet started again"):
        await scorer.score(PROMPT, candidates(0, 2))
    await asyncio.sleep(0.6)
    assert await scorer.score(PROMPT, candidates(0, 2)) == [1.0, 1.0]
    await factory.close()


async def test_a_full_queue_and_an_end(tmp_path: Path) -> None:
    """Who comes too late hears it at once; who waits hears when the worker is ended."""
    script = tmp_path / "worker"
    script.write_text(WORKER.format(python=sys.executable, act=WORKERS["hang"]))
    script.chmod(0o755)
    config = ClipConfig(model="m", python=str(script), max_waiting=1, max_batch=1)
    worker = ClipWorker(config, timeout_s=30)
    running = asyncio.create_task(worker.compare([b""], ["a"]))
    await until(lambda: worker.pid is not None)
    waiting = asyncio.create_task(worker.compare([b""], ["b"]))
    await asyncio.sleep(0)
    with pytest.raises(ScorerError, match="1 requests wait already"):
        await worker.compare([b""], ["c"])
    await worker.close()
    for one in (running, waiting):
        with pytest.raises(ScorerError, match="was ended"):
            await one
    assert worker.pid is None


def test_no_worker_is_left_behind() -> None:
    """The tests above ended all that they started."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    assert not [name for name in names if b"/worker" in name or b"clip_worker" in name]

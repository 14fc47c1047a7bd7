"""What `benchmarks.best_of_n` asks: the service before its engine, with the noisy scorer and with a judge."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks import _best_of_n_scorer as noisy
from clients.demo.language import Question
from clients.stack import HOST, Command, Stack, free_port

SHAPES: Final = Path("clients/demo/shapes_vlm").resolve()
MAX_TOKENS: Final = 64
COUNT: Final = 8
TIMEOUT_S: Final = 120.0
AUTO: Final = {"cost": 0.1}
EARLY: Final = {"checkpoints": [6, 12], "keep": 0.5}
"""Answers of this model have 16 tokens: the service's own checkpoints are for longer ones."""
NOISY, JUDGED = "noisy", "judged"
"""Aliases."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Who runs, by URL."""

    service: str
    engine: str


@contextmanager
def running(directory: Path, seeds: range) -> Iterator[Sides]:
    """The service, its engine, and the noisy scorer, which knows the scenes of these seeds."""
    engine_port, scorer_port = free_port(), free_port()
    module = [sys.executable, "-m", noisy.__name__, str(scorer_port), str(seeds.start), str(seeds.stop)]
    scorer = Command("noisy scorer", module, directory / "scorer.log")
    engine = f"http://{HOST}:{engine_port}"
    settings = {
        "engine": {"model": SHAPES, "dtype": "float32", "port": engine_port},
        "chat": {"max_best_of": 64},
        "aliases": [noisy_alias(f"http://{HOST}:{scorer_port}"), judged_alias(engine)],
    }
    scorer.start()
    try:
        with Stack(directory, settings) as stack:
            stack.wait_ready()
            scorer.require_running()
            yield Sides(stack.url, engine)
    finally:
        scorer.stop()


def noisy_alias(scorer_url: str) -> dict[str, Any]:
    pooling = {"url": scorer_url, "model": noisy.MODEL, "route": "score"}
    scorer = {"kind": "pooling", "name": noisy.MODEL, "pooling": pooling}
    return {"name": NOISY, "scorers": [scorer], "auto": AUTO, "early_reject": EARLY}


def judged_alias(engine_url: str) -> dict[str, Any]:
    return {"name": JUDGED, "scorers": [{"kind": "judge", "judge": judge_settings(engine_url)}]}


def judge_settings(engine_url: str) -> dict[str, Any]:
    return {"url": f"{engine_url}/v1", "model": str(SHAPES)}


def body(model: str, asked: Question, *, has_image: bool = True, **fields: Any) -> dict[str, Any]:
    """A request to describe a scene."""
    text = {"type": "text", "text": asked.prompt}
    image = {"type": "image_url", "image_url": {"url": asked.scene.data_url()}}
    content = [image, text] if has_image else asked.prompt
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": MAX_TOKENS, **fields}


async def ask(
    session: aiohttp.ClientSession, url: str, asked: dict[str, Any], *, may_degrade: bool = False
) -> dict[str, Any]:
    """The reply. A refused request ends the benchmark, and so does a scorer that failed, unless that may be."""
    async with session.post(f"{url}/v1/chat/completions", json=asked) as reply:
        data = await reply.json()
        if reply.status != 200:
            sys.exit(f"{url} answered {reply.status}: {str(data)[:300]}")
    if not may_degrade and (degraded := data.get("plumbline", {}).get("degraded")):
        sys.exit(f"scorers failed: {', '.join(degraded)}")
    return dict(data)


def texts(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] or "" for choice in reply["choices"]]


def scores_of(reply: dict[str, Any]) -> tuple[Sequence[str], Sequence[float], Sequence[float]]:
    """Texts, scores and totals of all candidates of an explained reply, in order."""
    found = reply["plumbline"]["explanation"]["candidates"]
    return (
        [one["text"] for one in found],
        [one["scores"][noisy.MODEL] for one in found],
        [one["total"] for one in found],
    )

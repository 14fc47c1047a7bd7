"""What the service adds to the engine: throughput and latency against the bare engine, in the same run.

    python -m benchmarks.gateway [--quick]

The peer is the very engine that the service uses, asked directly. Both get the same requests (one image each,
`best_of` 1, recording durable and on), in interleaved pairs of windows; ratios are medians over the pairs.

- `vs_engine_rps`: requests a second through the service / at the engine, concurrency 16.
- `added_p50_ms`: median latency through the service minus at the engine, concurrency 1.
- `best_of_8_vs_eight_requests`: latency of one request with eight candidates / of eight requests at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clients.demo.scenes import scene
from clients.stack import Stack, free_port

MODEL = Path("clients/demo/shapes_vlm")
MAX_TOKENS = 24
MAX_IMAGES = 512


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    url: str
    model: str

    def body(self, seed: int, **changes: Any) -> dict[str, Any]:
        image = {"type": "image_url", "image_url": {"url": scene(seed % MAX_IMAGES).data_url()}}
        content = [image, {"type": "text", "text": "Describe the image."}]
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "max_tokens": MAX_TOKENS, "seed": seed, **changes}


async def ask(session: aiohttp.ClientSession, target: Target, body: dict[str, Any]) -> float:
    """Seconds of one request; a failed one ends the benchmark."""
    started = time.perf_counter()
    async with session.post(f"{target.url}/v1/chat/completions", json=body) as reply:
        data = await reply.read()
        if reply.status != 200:
            sys.exit(f"{target.name} answered {reply.status}: {data[:300]!r}")
    return time.perf_counter() - started


async def window(
    session: aiohttp.ClientSession, target: Target, seeds: Sequence[int], concurrency: int
) -> tuple[float, list[float]]:
    """(requests a second, latencies) over the seeds; bodies are made before the clock starts."""
    bodies = [target.body(seed) for seed in seeds]
    latencies: list[float] = []

    async def worker() -> None:
        while bodies:
            latencies.append(await ask(session, target, bodies.pop()))

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return len(seeds) / (time.perf_counter() - started), latencies


async def measure(service: Target, engine: Target, *, pairs: int, requests: int) -> dict[str, float]:
    """Interleaved pairs; which side goes first alternates."""
    ratios: list[float] = []
    added_ms: list[float] = []
    fan_out: list[float] = []
    # Shorter than the engine's 5 s: a connection that was closed while bodies were made is not used again.
    connector = aiohttp.TCPConnector(keepalive_timeout=1)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        for target in (service, engine):
            await window(session, target, range(8), 4)
        for pair in track(range(pairs), description="pairs"):
            order = (service, engine) if pair % 2 else (engine, service)
            first = 1000 * (pair + 1)
            rps = {t.name: (await window(session, t, range(first, first + requests), 16))[0] for t in order}
            ratios.append(rps["service"] / rps["engine"])
            p50 = {}
            for target in order:
                _, latencies = await window(session, target, range(first, first + requests // 4), 1)
                p50[target.name] = statistics.median(latencies)
            added_ms.append(1000 * (p50["service"] - p50["engine"]))
            fan_out.append(await one_against_eight(session, service, first))
    return {
        "vs_engine_rps": statistics.median(ratios),
        "added_p50_ms": statistics.median(added_ms),
        "best_of_8_vs_eight_requests": statistics.median(fan_out),
    }


async def one_against_eight(session: aiohttp.ClientSession, service: Target, first: int) -> float:
    """Median of six: eight candidates in one request against eight requests of one candidate at once."""
    ratios = []
    for seed in range(first, first + 6):
        together = await ask(session, service, service.body(seed, best_of=8))
        started = time.perf_counter()
        await asyncio.gather(*(ask(session, service, service.body(seed * 8 + i)) for i in range(8)))
        ratios.append(together / (time.perf_counter() - started))
    return statistics.median(ratios)


def report(result: dict[str, float]) -> None:
    table = Table("figure", "reached", title="service against the bare engine")
    for name, value in result.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)
    print("RESULT", json.dumps({name: round(value, 4) for name, value in result.items()}))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway", description="The service against the bare engine that it uses."
    )
    parser.add_argument("--quick", action="store_true", help="3 pairs of 48 requests instead of 9 pairs of 192")
    quick = parser.parse_args().quick
    engine_port = free_port()
    settings = {
        "engine": {"model": MODEL.resolve(), "dtype": "float32", "port": engine_port},
        "aliases": [{"name": "shapes", "best_of": 1, "scorers": []}],
    }
    with tempfile.TemporaryDirectory() as directory, Stack(Path(directory), settings) as stack:
        with Console().status("starting the engine"):
            stack.wait_ready()
        service = Target("service", stack.url, "shapes")
        engine = Target("engine", f"http://127.0.0.1:{engine_port}", str(MODEL.resolve()))
        report(asyncio.run(measure(service, engine, pairs=3 if quick else 9, requests=48 if quick else 192)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

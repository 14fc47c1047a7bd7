"""What the service costs: against LiteLLM before an engine without a model, and against the bare real engine.

    python -m benchmarks.gateway [--quick]

Part 1, the gateway alone. An engine that answers at once (`benchmarks._noop_engine`) stands behind the service and
behind a LiteLLM proxy, one worker each. The service does all that it always does, and keeps every answer durably; the
proxy keeps nothing. Both get the same kind of requests at concurrency 8, in interleaved windows; which side goes first
alternates. Every image is a new one, about 100 KB.

- `vs_litellm_rps_text`, `vs_litellm_rps_image`: requests a second, service / LiteLLM; medians over the pairs.
- `vs_litellm_cpu_text`, `vs_litellm_cpu_image`: CPU time of a request, LiteLLM / service: the same, but for waiting.
- `gateway_cpu_ms_per_request`, `gateway_cpu_ms_per_image_request`: CPU time of the server's process, all threads.
- `p99_50rps_vs_10rps`: 99th percentile of the latency with images that arrive as they like, 50 a second / 10 a second.

Part 2, beside a model. The peer is the very engine that the service uses, asked directly, with one new image each,
`best_of` 1, recording durable and on.

- `vs_engine_rps`: requests a second through the service / at the engine, concurrency 16.
- `added_p50_ms`: median latency through the service minus at the engine, concurrency 1.
- `vs_recording_engine_rps`, `added_to_recording_p50_ms`: the same against an engine that is asked, as the service asks
  it, for token ids and log-probabilities too: what the service itself costs, without what recording costs the engine.
- `best_of_8_vs_eight_requests`: latency of one request with eight candidates / of eight requests at once.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from operator import sub, truediv
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import _noop_engine
from benchmarks._litellm import LiteLlm, install
from benchmarks._load import Target, ask, clients, closed_loop, open_loop, with_image
from benchmarks._peer import NotInstalled
from clients.demo.scenes import scene
from clients.stack import HOST, Command, Stack, free_port

SHAPES = Path("clients/demo/shapes_vlm")
MAX_TOKENS = 24
RECORDED = {"logprobs": True, "return_token_ids": True}
"""What the service asks the engine for beside the text."""
TARGETS = {
    "vs_litellm_rps_text": (">=", 8),
    "vs_litellm_rps_image": (">=", 1.5),
    "gateway_cpu_ms_per_request": ("<=", 2.5),
    "p99_50rps_vs_10rps": ("<=", 2),
    "vs_engine_rps": (">=", 0.8),
    "added_p50_ms": ("<=", 4),
}

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    pairs: int
    """Of windows, in both parts."""
    texts: int
    images: int
    peer_texts: int
    """The slower side needs fewer requests for as long a window."""
    rounds: int
    """Of arrivals, each at both rates."""
    seconds: float
    """Of arrivals at the low rate; a fifth of it, but as many requests, at the high one."""
    engine_requests: int


FULL = Sizes(pairs=9, texts=1500, images=160, peer_texts=300, rounds=5, seconds=30, engine_requests=192)
QUICK = Sizes(pairs=3, texts=800, images=170, peer_texts=200, rounds=2, seconds=12, engine_requests=48)


# --- part 1: the gateway alone ----------------------------------------------------------------------------------------


@contextmanager
def noop_engine(directory: Path, token_ms: float = 0.0) -> Iterator[str]:
    """Its URL."""
    port = free_port()
    arguments = [sys.executable, "-m", "benchmarks._noop_engine", str(port), "--token-ms", str(token_ms)]
    command = Command("engine without a model", arguments, directory / "noop-engine.log")
    command.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        command.stop()


@contextmanager
def service_before(engine_url: str, directory: Path) -> Iterator[Target]:
    """The service, ready."""
    settings = {
        "engine": {"urls": [engine_url], "model": _noop_engine.MODEL},
        "aliases": [{"name": "app", "best_of": 1, "scorers": []}],
    }
    with Stack(directory, settings) as stack:
        stack.wait_ready()
        yield Target("service", stack.url, "app", stack.server_pid)


async def against_peer(service: Target, peer: Target | None, sizes: Sizes) -> Figures:
    """The figures of part 1; without a peer, those of the service alone."""
    seeds = count()

    def texts(target: Target, number: int) -> list[bytes]:
        question = "Describe what lies left of the square, and say whether anything is hidden. "
        return [target.body(f"{question}{next(seeds)}", max_tokens=MAX_TOKENS) for _ in range(number)]

    def images(target: Target, number: int) -> list[bytes]:
        return [target.body(with_image(next(seeds)), max_tokens=MAX_TOKENS) for _ in range(number)]

    kinds: dict[str, tuple[Callable[[Target, int], list[bytes]], int, int]] = {
        "text": (texts, sizes.texts, sizes.peer_texts),
        "image": (images, sizes.images, sizes.images),
    }
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    cpu_ms: dict[str, list[float]] = {kind: [] for kind in kinds}
    cpu_ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    async with clients() as session:
        for pair in track(range(-1, sizes.pairs), description="gateways"):  # the first warms up
            for kind, (bodies, number, peer_number) in kinds.items():
                found = {}
                for target in (service, peer) if pair % 2 else (peer, service):
                    if target is not None:
                        asked = bodies(target, number if target is service else peer_number)
                        found[target.name] = await closed_loop(session, target, asked, 8)
                if pair < 0:
                    continue
                cpu_ms[kind].append(found[service.name].cpu_ms)
                if peer is not None:
                    ratios[kind].append(found[service.name].rps / found[peer.name].rps)
                    cpu_ratios[kind].append(found[peer.name].cpu_ms / found[service.name].cpu_ms)
        slowdowns = []
        for number in track(range(sizes.rounds), description="arrivals"):
            p99 = {}
            for rate in (10, 50):
                asked = images(service, int(10 * sizes.seconds))
                latencies = await open_loop(session, service, asked, rate, seed=number)
                p99[rate] = statistics.quantiles(latencies, n=100)[98]
            slowdowns.append(p99[50] / p99[10])
    figures = {f"vs_litellm_rps_{kind}": statistics.median(found) for kind, found in ratios.items() if found}
    figures |= {f"vs_litellm_cpu_{kind}": statistics.median(found) for kind, found in cpu_ratios.items() if found}
    figures["gateway_cpu_ms_per_request"] = statistics.median(cpu_ms["text"])
    figures["gateway_cpu_ms_per_image_request"] = statistics.median(cpu_ms["image"])
    figures["p99_50rps_vs_10rps"] = statistics.median(slowdowns)
    return figures


def gateway_alone(directory: Path, sizes: Sizes, console: Console) -> Figures:
    with console.status("a LiteLLM proxy of its own (minutes, the first time)"):
        try:
            command = install()
        except NotInstalled as error:
            command = None
            console.print(f"[red]skipped: vs_litellm_rps_text, vs_litellm_rps_image[/red] ({error})")
    with noop_engine(directory) as engine_url, service_before(engine_url, directory) as service:
        if command is None:
            return asyncio.run(against_peer(service, None, sizes))
        with LiteLlm(command, directory, engine_url) as proxy:
            peer = Target("LiteLLM", proxy.url, LiteLlm.MODEL, proxy.pid)
            return asyncio.run(against_peer(service, peer, sizes))


# --- part 2: beside a model -------------------------------------------------------------------------------------------


def shapes_body(target: Target, seed: int, copies: Iterator[int], **fields: Any) -> bytes:
    """A scene as nobody sent it before: the same picture again would cost the engine less than the first time."""
    with Image.open(io.BytesIO(scene(seed).render())) as picture:
        copy = picture.convert("RGB")
    copy.putpixel((0, 0), tuple(next(copies).to_bytes(3, "big")))
    buffer = io.BytesIO()
    copy.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe the image."}]
    return target.body(content, max_tokens=MAX_TOKENS, seed=seed, **fields)


async def against_engine(service: Target, engine: Target, sizes: Sizes) -> Figures:
    """Who goes first changes from pair to pair; at concurrency 1 they take turns with every request.

    All get the same scenes at the same seeds, none the same picture.
    """
    copies = count()
    asked = {"service": (service, {}), "engine": (engine, {}), "recording": (engine, RECORDED)}
    rps: dict[str, list[float]] = {name: [] for name in asked}
    p50_ms: dict[str, list[float]] = {name: [] for name in asked}
    fan_out: list[float] = []
    async with clients() as session:
        for pair in track(range(-1, sizes.pairs), description="beside the engine"):  # the first warms up
            order = [*asked][pair % 3 :] + [*asked][: pair % 3]
            first = 1000 * (pair + 2)
            window = {}
            latencies_s: dict[str, list[float]] = {name: [] for name in asked}
            for name in order:
                target, fields = asked[name]
                bodies = [shapes_body(target, first + at, copies, **fields) for at in range(sizes.engine_requests)]
                window[name] = await closed_loop(session, target, bodies, 16)
            for seed in range(first + sizes.engine_requests, first + sizes.engine_requests * 5 // 4):
                for name in order:
                    target, fields = asked[name]
                    latencies_s[name].append(await ask(session, target, shapes_body(target, seed, copies, **fields)))
            eight = await one_against_eight(session, service, first, copies)
            if pair >= 0:
                fan_out.append(eight)
                for name in asked:
                    rps[name].append(window[name].rps)
                    p50_ms[name].append(1000 * statistics.median(latencies_s[name]))

    def median_of(compare: Callable[[float, float], float], one: list[float], other: list[float]) -> float:
        return statistics.median(map(compare, one, other))

    return {
        "vs_engine_rps": median_of(truediv, rps["service"], rps["engine"]),
        "vs_recording_engine_rps": median_of(truediv, rps["service"], rps["recording"]),
        "added_p50_ms": median_of(sub, p50_ms["service"], p50_ms["engine"]),
        "added_to_recording_p50_ms": median_of(sub, p50_ms["service"], p50_ms["recording"]),
        "engine_p50_ms": statistics.median(p50_ms["engine"]),
        "best_of_8_vs_eight_requests": statistics.median(fan_out),
    }


async def one_against_eight(
    session: aiohttp.ClientSession, service: Target, first: int, copies: Iterator[int]
) -> float:
    """Median of six: eight candidates in one request against eight requests of one candidate at once."""
    ratios = []
    for seed in range(first, first + 6):
        together = await ask(session, service, shapes_body(service, seed, copies, best_of=8))
        bodies = [shapes_body(service, seed * 8 + at, copies) for at in range(8)]
        started = time.perf_counter()
        await asyncio.gather(*(ask(session, service, body) for body in bodies))
        ratios.append(together / (time.perf_counter() - started))
    return statistics.median(ratios)


def beside_engine(directory: Path, sizes: Sizes, console: Console) -> Figures:
    engine_port = free_port()
    settings = {
        "engine": {"model": SHAPES.resolve(), "dtype": "float32", "port": engine_port},
        "aliases": [{"name": "shapes", "best_of": 1, "scorers": []}],
    }
    with Stack(directory, settings) as stack:
        with console.status("starting the engine"):
            stack.wait_ready()
        service = Target("service", stack.url, "shapes", stack.server_pid)
        engine = Target("engine", f"http://{HOST}:{engine_port}", str(SHAPES.resolve()))
        return asyncio.run(against_engine(service, engine, sizes))


PARTS: dict[str, Callable[[Path, Sizes, Console], Figures]] = {"gateway": gateway_alone, "engine": beside_engine}


def report(figures: Figures, load: Sequence[float], console: Console) -> None:
    table = Table("figure", "target", "reached", title=f"what the service costs (machine's load {load[0]:.1f} before)")
    for name, value in figures.items():
        relation, target = TARGETS.get(name, ("", ""))
        table.add_row(name, f"{relation} {target}".strip(), f"{value:.3f}")
    console.print(table)
    print("RESULT", json.dumps({name: round(value, 4) for name, value in figures.items()}))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway", description="What the service costs, against its peers."
    )
    parser.add_argument("--quick", action="store_true", help="three pairs of shorter windows: three minutes")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be given again")
    args = parser.parse_args()
    sizes, console, load = QUICK if args.quick else FULL, Console(), os.getloadavg()
    figures: Figures = {}
    for name in args.part or PARTS:
        with tempfile.TemporaryDirectory() as directory:
            figures |= PARTS[name](Path(directory), sizes, console)
    report(figures, load, console)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Adapters come and go under load on two real engines: what does a user notice? Beside it, vLLM's own way.

    python -m benchmarks.hot_swap [--quick]

The service runs with two vLLM replicas (one where memory is short; the table says so). Eight streaming clients ask all
the time. Again and again an adapter is uploaded, probed, gated, made canary, promoted, rolled back and brought back.
Two families of adapters with opposite answers take turns, so the text of an answer tells who gave it.

- `failed_requests`: anything but a whole answer.
- `mixed_generation_answers`: an answer that no adapter gives, or with candidates of more than one adapter.
- `stale_answers`: the text is another adapter's than the reply names, or the request was sent after the reply to a move
  and answered on an older generation.
- `publish_to_served_s`: from sending the last file of an upload to the end of the first answer by it; integrity, probe
  on every replica and the canary's start included. The gate's own time is taken out and stands beside it.
- `rollback_to_next_request_ms`: from the first byte of the call to the first admission on the new generation.
- `p99_latency_during_swap_ratio`: p99 inside of swap windows / outside. `aa_ratio`: the same between the even and the
  odd windows outside, the larger by the smaller.

The peer is the first replica itself, asked directly under one name whose weights are replaced: by
`/v1/load_lora_adapter` with `load_inplace`, and by unloading and loading.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks._crowd import QUESTIONS, Asked, Crowd, Detector, adapter_files
from clients.client import PlumblineClient
from clients.stack import HOST, Stack, free_port
from server.wire.adapters import AdapterManifest
from server.wire.identity import directory_digest

MODEL = Path("clients/demo/shapes_vlm").resolve()
ALIAS = "shapes"
BYTES_PER_REPLICA = 3 * 2**30
PAUSE_S = 0.4
"""Between two moves: enough for answers on both sides of each."""
OPEN_GATE = {"max_kl": 1000.0, "max_length_ratio": 1000.0, "safety_margin": 1.0}
"""What is measured is the way, not the taste: the adapters babble."""
TARGETS = {
    "failed_requests": "0",
    "mixed_generation_answers": "0",
    "stale_answers": "0",
    "publish_to_served_p50_s": "<= 1",
    "rollback_to_next_request_p99_ms": "<= 50",
    "p99_latency_during_swap_ratio": "<= max(1.25, aa_ratio + .1)",
    "requests": ">= 3000",
}


@dataclass(slots=True)
class Log:
    """What the operator did and when."""

    windows: list[tuple[float, float]] = field(default_factory=list)
    """Swap windows, from the upload to the answers after the last move."""
    moves: list[tuple[float, float, int]] = field(default_factory=list)
    """(first byte of the call, its reply, the generation from then on)."""
    rollbacks: list[tuple[float, float, int]] = field(default_factory=list)
    served_s: list[float] = field(default_factory=list)
    gate_s: list[float] = field(default_factory=list)
    probe_s: list[float] = field(default_factory=list)


class Operator:
    """Publishes and moves, beside a crowd."""

    def __init__(self, stack: Stack, crowd: Crowd, directory: Path) -> None:
        self._url = stack.url
        self._client = PlumblineClient(stack.url)
        self._crowd = crowd
        self._directory = directory
        self._digest = directory_digest(MODEL)
        self._count = 0
        self.families = {"base": "base"}
        self.log = Log()
        self._first: dict[str, asyncio.Future[float]] = {}
        crowd.on_answer = self._on_answer

    def _on_answer(self, one: Asked) -> None:
        first = self._first.get(one.adapter)
        if first is not None and not first.done():
            first.set_result(one.ended_at)

    async def publish(self, family: str) -> tuple[str, float]:
        """(id, when the last file began to be sent); the adapter is gated once this returns."""
        self._count += 1
        files = adapter_files(self._directory, str(MODEL), family, self._count)
        described = [
            {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ]
        manifest = AdapterManifest.model_validate({"alias": ALIAS, "base_digest": self._digest, "files": described})
        begun = await asyncio.to_thread(self._client.begin_upload, manifest)
        started = 0.0
        for name, data in files.items():
            started = time.perf_counter()
            await asyncio.to_thread(self._client.put_adapter_file, begun.upload, name, data)
        adapter = (await asyncio.to_thread(self._client.commit_upload, begun.upload)).id
        self.families[adapter] = family
        while (state := await self._state(adapter)) != "gated":
            if state == "rejected":
                raise SystemExit(f"{adapter} was rejected: {self._client.adapter_report(adapter)}")
            await asyncio.sleep(0.01)
        return adapter, started

    async def _state(self, adapter: str) -> str:
        assert self._crowd.session is not None
        async with self._crowd.session.get(f"{self._url}/v1/adapters/{adapter}") as reply:
            return str((await reply.json())["state"])

    async def move(self, path: str, **body: Any) -> tuple[float, float, int]:
        """A move by hand: the call, the reply, the new generation."""
        assert self._crowd.session is not None
        called = time.perf_counter()
        async with self._crowd.session.post(f"{self._url}{path}", json=body) as reply:
            data = await reply.json()
            if reply.status != 200:
                raise SystemExit(f"{path} answered {reply.status}: {data}")
        done = (called, time.perf_counter(), int(data["generation"]))
        self.log.moves.append(done)
        return done

    async def cycle(self, family: str, rollbacks: int) -> None:
        """One swap window: upload, canary, promotion, and there and back again."""
        began = time.perf_counter()
        adapter, started = await self.publish(family)
        first = self._first[adapter] = asyncio.get_running_loop().create_future()
        await self.move(f"/v1/adapters/{adapter}/canary", share=0.5)
        total_s = await asyncio.wait_for(first, 60) - started
        report = await asyncio.to_thread(self._client.adapter_report, adapter)
        spent_s = {one["kind"]: one["body"].get("elapsed_s", 0.0) for one in report.reports}
        self.log.gate_s.append(spent_s["gate"])
        self.log.probe_s.append(spent_s["probe"])
        self.log.served_s.append(total_s - spent_s["gate"])
        await self.move(f"/v1/adapters/{adapter}/promote")
        for _ in range(rollbacks):
            await asyncio.sleep(PAUSE_S)
            self.log.rollbacks.append(await self.move("/v1/rollback", alias=ALIAS))
            await self._crowd.ask(0)  # whoever asks next
            await asyncio.sleep(PAUSE_S)
            await self.move("/v1/rollback/undo", alias=ALIAS)
        await asyncio.sleep(PAUSE_S)
        self.log.windows.append((began, time.perf_counter()))


async def learn_answers(operator: Operator, crowd: Crowd) -> Detector:
    """Publish one adapter of each family and ask each by its id; afterwards B is active and A is before it."""
    answers = {}
    ids = {family: (await operator.publish(family))[0] for family in ("A", "B")}
    for family, model in {"base": "base", **ids}.items():
        known = Crowd(crowd.url, model, session=crowd.session)
        answers[family] = [(await known.ask(question)).text for question in range(QUESTIONS)]
    for adapter in ids.values():
        await operator.move(f"/v1/adapters/{adapter}/promote")
    detector = Detector(answers)
    detector.check()
    return detector


async def measure_service(
    stack: Stack, directory: Path, *, cycles: int, requests: int, progress: Progress
) -> tuple[dict[str, float], Detector]:
    crowd = Crowd(stack.url, ALIAS, pairs=True)
    operator = Operator(stack, crowd, directory)
    task = progress.add_task("the service", total=cycles)
    async with crowd.asking():
        detector = await learn_answers(operator, crowd)
        await asyncio.sleep(3.0)
        crowd.asked.clear()
        operator.log.windows.clear()
        for number in range(cycles):
            before = time.perf_counter()
            await operator.cycle("AB"[number % 2], rollbacks=2)
            # As much time outside of swap windows as inside.
            await asyncio.sleep(time.perf_counter() - before)
            progress.advance(task)
        while len(crowd.asked) < requests:  # noqa: ASYNC110 - what is waited for is the count
            await asyncio.sleep(0.5)
    return figures(crowd.asked, operator, detector), detector


def figures(asked: Sequence[Asked], operator: Operator, detector: Detector) -> dict[str, float]:
    log = operator.log
    for error, count in Counter(one.error for one in asked if one.error).items():
        print(f"{count} requests failed: {error}", file=sys.stderr)
    greedy = [one for one in asked if not one.candidates and not one.error]
    inside = [one for one in greedy if _touches(one, log.windows)]
    outside = [one for one in greedy if not _touches(one, log.windows)]
    halves: tuple[list[float], list[float]] = ([], [])
    for one in outside:
        halves[sum(ended < one.sent_at for _, ended in log.windows) % 2].append(one.latency_s)
    even, odd = p99(halves[0]), p99(halves[1])
    return {
        "requests": len(asked),
        "requests_in_swap_windows": sum(_touches(one, log.windows) for one in asked),
        "publishes": len(log.served_s),
        "moves": len(log.moves),
        "failed_requests": sum(bool(one.error) for one in asked),
        "mixed_generation_answers": sum(not detector.family(one) for one in greedy)
        + sum(len(one.candidates | {one.adapter}) > 1 for one in asked if one.candidates),
        "stale_answers": sum(_is_stale(one, operator, detector) for one in asked if not one.error),
        "publish_to_served_p50_s": statistics.median(log.served_s),
        "publish_to_served_max_s": max(log.served_s),
        "probe_p50_s": statistics.median(log.probe_s),
        "gate_p50_s": statistics.median(log.gate_s),
        "rollback_to_next_request_p50_ms": statistics.median(_next_ms(log, asked)),
        "rollback_to_next_request_p99_ms": p99(_next_ms(log, asked)),
        "rollback_call_p50_ms": 1000 * statistics.median(replied - called for called, replied, _ in log.rollbacks),
        "p50_latency_ms": 1000 * statistics.median(one.latency_s for one in outside),
        "p99_latency_ms": 1000 * p99([one.latency_s for one in outside]),
        "p99_latency_during_swap_ratio": p99([one.latency_s for one in inside])
        / p99([one.latency_s for one in outside]),
        "aa_ratio": max(even, odd) / min(even, odd),
    }


def p99(values: Sequence[float]) -> float:
    """By the nearest rank: of few values the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def _touches(one: Asked, windows: Sequence[tuple[float, float]]) -> bool:
    return any(one.sent_at < ended and one.ended_at > began for began, ended in windows)


def _is_stale(one: Asked, operator: Operator, detector: Detector) -> bool:
    text_is_anothers = not one.candidates and detector.family(one) not in ("", operator.families[one.adapter])
    return text_is_anothers or any(
        one.sent_at > replied and one.generation < generation for _, replied, generation in operator.log.moves
    )


def _next_ms(log: Log, asked: Sequence[Asked]) -> list[float]:
    """For each rollback: from its first byte to the first admission on the generation that it made."""
    return [
        1000 * (min(one.admitted_at for one in asked if one.generation == generation) - called)
        for called, _, generation in log.rollbacks
    ]


# --- the peer ---------------------------------------------------------------------------------------------


async def measure_peer(
    url: str, directory: Path, detector: Detector, way: str, *, swaps: int, progress: Progress
) -> dict[str, float]:
    """The same crowd at one engine, under one name whose weights are replaced."""
    paths = {}
    for family in "AB":
        paths[family] = directory / way / family
        paths[family].mkdir(parents=True)
        for name, data in adapter_files(directory / way / "made", str(MODEL), family, 0).items():
            (paths[family] / name).write_bytes(data)
    name = f"policy-{way}"
    crowd = Crowd(url, name)
    done: list[tuple[float, float, str]] = []
    task = progress.add_task(f"vLLM, {way}", total=swaps)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:

        async def post(path: str, body: dict[str, Any]) -> None:
            async with session.post(f"{url}{path}", json=body) as reply:
                if reply.status != 200:
                    raise SystemExit(f"{path} answered {reply.status}: {await reply.text()}")

        async def load(family: str, *, is_first: bool = False) -> None:
            called = time.perf_counter()
            if way == "unload_load" and not is_first:
                await post("/v1/unload_lora_adapter", {"lora_name": name})
            body = {"lora_name": name, "lora_path": str(paths[family]), "load_inplace": way == "in_place"}
            await post("/v1/load_lora_adapter", body)
            done.append((called, time.perf_counter(), family))

        await load("A", is_first=True)
        async with crowd.asking():
            for number in range(swaps):
                await asyncio.sleep(2 * PAUSE_S)
                await load("BA"[number % 2])
                progress.advance(task)
            await asyncio.sleep(2 * PAUSE_S)
    answered = [one for one in crowd.asked if not one.error]
    return {
        f"vllm_{way}_requests": len(crowd.asked),
        f"vllm_{way}_failed_requests": sum(bool(one.error) for one in crowd.asked),
        f"vllm_{way}_mixed_answers": sum(not detector.family(one) for one in answered),
        f"vllm_{way}_stale_answers": sum(_is_outdated(one, done, detector) for one in answered),
        f"vllm_{way}_p50_ms": 1000 * statistics.median(replied - called for called, replied, _ in done[1:]),
    }


def _is_outdated(one: Asked, done: Sequence[tuple[float, float, str]], detector: Detector) -> bool:
    """Sent when no load was under way, and answered by other weights than those of the last one."""
    before = [family for _, replied, family in done if replied < one.sent_at]
    is_quiet = not any(called < one.ended_at and replied > one.sent_at for called, replied, _ in done)
    return is_quiet and bool(before) and detector.family(one) not in ("", before[-1])


# --- the run ----------------------------------------------------------------------------------------------


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind((HOST, port))
        except OSError:
            continue
        return first


def available_bytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def report(result: dict[str, float]) -> None:
    note = "" if result["replicas"] == 2 else " (memory is short: one replica only)"
    table = Table("figure", "target", "reached", title=f"swaps under load, {result['replicas']:.0f} replicas{note}")
    for name, value in result.items():
        shown = f"{value:.0f}" if float(value).is_integer() else f"{value:.3f}"
        table.add_row(name, TARGETS.get(name, ""), shown)
    Console().print(table)
    print("RESULT", json.dumps({name: round(value, 4) for name, value in result.items()}))


async def measure(stack: Stack, directory: Path, engine_url: str, *, quick: bool) -> dict[str, float]:
    with Progress() as progress:
        made = directory / "made"
        plan = {"cycles": 4, "requests": 0} if quick else {"cycles": 20, "requests": 3000}
        result, detector = await measure_service(stack, made, **plan, progress=progress)
        for way in ("in_place", "unload_load"):
            peer = directory / "peer"
            result |= await measure_peer(engine_url, peer, detector, way, swaps=6 if quick else 20, progress=progress)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hot_swap", description="Adapters come and go under load, on real engines."
    )
    parser.add_argument("--quick", action="store_true", help="4 publishes instead of 20")
    quick = parser.parse_args().quick
    replicas = 2 if available_bytes() >= 2 * BYTES_PER_REPLICA else 1
    port = free_ports(replicas)
    settings = {
        "engine": {"model": MODEL, "dtype": "float32", "port": port, "replicas": replicas, "max_model_len": 2048},
        "aliases": [
            {
                "name": ALIAS,
                "best_of": 1,
                "scorers": [],
                "signals": {"holdout_share": 0.0},
                "gate": OPEN_GATE,
                "rollout": {"automatic": False},
            }
        ],
    }
    with tempfile.TemporaryDirectory() as name, Stack(Path(name), settings) as stack:
        with Console().status("starting the engines"):
            stack.wait_ready()
        figures = asyncio.run(measure(stack, Path(name), f"http://{HOST}:{port}", quick=quick))
        report({"replicas": float(replicas), **figures})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

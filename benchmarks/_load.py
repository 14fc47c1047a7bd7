"""Requests sent as fast as so many clients can (closed loop), or at the times of a clock (open loop).

Used by `benchmarks.gateway` and `benchmarks.soak`. Bodies are made before the clock starts. A failed request ends the
benchmark: a gateway that refuses is not a fast one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from PIL import Image

JPEG_SIDE_PX = 512
JPEG_NOISE_PX = 96
"""Noise of this side, enlarged: at quality 90 a file of 100 KB."""
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask."""

    name: str
    url: str
    model: str
    pid: int | None = None
    """Of the process whose CPU time counts."""

    def cpu_s(self) -> float:
        """CPU seconds of the process so far, all its threads included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND

    def body(self, content: object, **fields: object) -> bytes:
        return json.dumps({"model": self.model, "messages": [{"role": "user", "content": content}], **fields}).encode()


def jpeg(seed: int) -> bytes:
    """A picture of about 100 KB that no other seed gives."""
    small = Image.frombytes("RGB", (JPEG_NOISE_PX,) * 2, random.Random(seed).randbytes(3 * JPEG_NOISE_PX**2))
    buffer = io.BytesIO()
    small.resize((JPEG_SIDE_PX,) * 2, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def with_image(seed: int) -> list[dict[str, object]]:
    """A message's content: a new image and a question."""
    url = f"data:image/jpeg;base64,{base64.b64encode(jpeg(seed)).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe the image."}]


@dataclass(frozen=True, slots=True)
class Window:
    """What a window of requests took."""

    latencies_s: list[float]
    seconds: float
    cpu_s: float

    @property
    def rps(self) -> float:
        return len(self.latencies_s) / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of the asked process for each request."""
        return 1000 * self.cpu_s / len(self.latencies_s)


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[aiohttp.ClientSession]:
    # Shorter than the servers' 5 s: a connection that was closed while bodies were made is not used again.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        yield session


async def ask(session: aiohttp.ClientSession, target: Target, body: bytes) -> float:
    """Seconds of one request."""
    started = time.perf_counter()
    headers = {"content-type": "application/json"}
    async with session.post(f"{target.url}/v1/chat/completions", data=body, headers=headers) as reply:
        data = await reply.read()
        if reply.status != 200:
            sys.exit(f"{target.name} answered {reply.status}: {data[:300]!r}")
    return time.perf_counter() - started


async def closed_loop(
    session: aiohttp.ClientSession, target: Target, bodies: Sequence[bytes], concurrency: int
) -> Window:
    """`concurrency` clients, each with one request after the other."""
    waiting, latencies = list(bodies), []

    async def client() -> None:
        while waiting:
            latencies.append(await ask(session, target, waiting.pop()))

    cpu_s = target.cpu_s() if target.pid else 0.0
    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    seconds = time.perf_counter() - started
    return Window(latencies, seconds, (target.cpu_s() if target.pid else 0.0) - cpu_s)


async def open_loop(
    session: aiohttp.ClientSession, target: Target, bodies: Sequence[bytes], rate: float, seed: int
) -> list[float]:
    """Latencies of requests that arrive as they like (Poisson), however long the others take."""
    arrivals = random.Random(seed)
    asked = []
    due = time.perf_counter()
    for body in bodies:
        due += arrivals.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked.append(asyncio.create_task(ask(session, target, body)))
    return list(await asyncio.gather(*asked))

"""Does the server's memory stay bounded? A mix of good, bad, slow and aborted requests, for as long as it takes.

    python -m benchmarks.soak [--quick]

Ten minutes (`--quick`: one) before an engine without a model, which takes its time for each token, so that streams can
be left in the middle. Eight clients draw what they do by the same seed:

- good: a text, or an image that is new to the server; whole or streamed to its end;
- bad: what is not JSON, an unknown field, a model that is not there, a damaged image, a body that is too large;
- slow: a body sent in pieces with pauses;
- aborted: a stream, or a request with four candidates, that is left before its end.

Memory is the resident set of the server's process. It grows at first (caches, threads, the allocator's own stock), so
growth is what is added between the middle and the end, each the median of its tenth of the run.

- `growth_kb_per_1000_requests`; `rss_mb_start`, `rss_mb_middle`, `rss_mb_end`; `open_files_growth`; requests by kind.
- `wrong_answers`: statuses that are not those that the request deserves. Must be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks._load import Target, clients, with_image
from benchmarks.gateway import noop_engine, service_before

CLIENTS = 8
TOKEN_MS = 2.0
SAMPLE_S = 0.5
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(slots=True)
class Soak:
    """One run against `target`."""

    session: aiohttp.ClientSession
    target: Target
    draw: random.Random = field(default_factory=lambda: random.Random(7))
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    sent: int = 0

    async def client(self, until: float) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [self.good, self.good, self.bad, self.slow, self.aborted]
        while time.monotonic() < until:
            kind = self.draw.choice(kinds)
            self.kinds[kind.__name__] += 1
            await kind()

    def body(self, **fields: object) -> bytes:
        self.sent += 1
        content = with_image(self.sent) if self.draw.random() < 0.3 else f"Describe this: {self.sent}"
        return self.target.body(content, **fields)

    async def post(self, data: bytes | AsyncIterator[bytes], wanted: int, *, leave: bool = False) -> None:
        """Send it and note an answer that is not the wanted one; `leave` closes the connection at the first bytes."""
        headers = {"content-type": "application/json"}
        async with self.session.post(f"{self.target.url}/v1/chat/completions", data=data, headers=headers) as reply:
            if reply.status != wanted:
                self.wrong.append(f"{reply.status} in place of {wanted}: {(await reply.read())[:200]!r}")
            elif leave:
                await reply.content.readany()
                reply.close()
            else:
                await reply.read()

    async def good(self) -> None:
        await self.post(self.body(stream=self.draw.random() < 0.5, user=f"user {self.sent % 1000}"), 200)

    async def bad(self) -> None:
        broken = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        data, wanted = self.draw.choice(
            [
                (self.body()[:-2], 400),
                (self.body(no_such_field=1), 400),
                (self.target.body("x", model="no-such-model"), 404),
                (self.target.body(broken), 400),
                (self.target.body("x" * 300_000), 400),
            ]
        )
        await self.post(data, wanted)

    async def slow(self) -> None:
        body = self.body()

        async def pieces() -> AsyncIterator[bytes]:
            third = len(body) // 3
            for piece in (body[:third], body[third : 2 * third], body[2 * third :]):
                yield piece
                await asyncio.sleep(0.1)

        await self.post(pieces(), 200)

    async def aborted(self) -> None:
        if self.draw.random() < 0.5:
            await self.post(self.body(stream=True), 200, leave=True)
            return
        asking = asyncio.create_task(self.post(self.body(best_of=4), 200))
        await asyncio.wait({asking}, timeout=0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE_KB / 1024


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def soak(target: Target, seconds: float) -> dict[str, float]:
    assert target.pid is not None
    resident: list[float] = []
    asked: list[int] = []
    files = open_files(target.pid)
    async with clients() as session:
        run = Soak(session, target)
        until = time.monotonic() + seconds
        crowd = asyncio.gather(*(run.client(until) for _ in range(CLIENTS)))
        with Console().status("soaking"):
            while not crowd.done():
                await asyncio.wait({crowd}, timeout=SAMPLE_S)
                resident.append(resident_mb(target.pid))
                asked.append(run.kinds.total())
        await crowd
    for answer in run.wrong[:5]:
        print(answer, file=sys.stderr)
    tenth, half = max(1, len(resident) // 10), len(resident) // 2
    start, middle, end = (
        statistics.median(part) for part in (resident[:tenth], resident[half : half + tenth], resident[-tenth:])
    )
    return {
        "growth_kb_per_1000_requests": 1024 * (end - middle) / ((asked[-1] - asked[half]) / 1000),
        "rss_mb_start": start,
        "rss_mb_middle": middle,
        "rss_mb_end": end,
        "open_files_growth": open_files(target.pid) - files,
        "wrong_answers": len(run.wrong),
        "requests": asked[-1],
        **{f"requests_{kind}": count for kind, count in sorted(run.kinds.items())},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Does memory stay bounded?")
    parser.add_argument("--quick", action="store_true", help="one minute instead of ten")
    quick = parser.parse_args().quick
    with (
        tempfile.TemporaryDirectory() as directory,
        noop_engine(Path(directory), token_ms=TOKEN_MS) as engine_url,
        service_before(engine_url, Path(directory)) as service,
    ):
        figures = asyncio.run(soak(service, 60.0 if quick else 600.0))
    table = Table("figure", "reached", title="ten minutes of everything" if not quick else "a minute of everything")
    for name, value in figures.items():
        table.add_row(name, f"{value:.1f}")
    Console().print(table)
    print("RESULT", json.dumps({name: round(value, 3) for name, value in figures.items()}))
    return 1 if figures["wrong_answers"] else 0


if __name__ == "__main__":
    sys.exit(main())

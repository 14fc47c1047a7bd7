"""What group commit gains, and what a million groups cost: the store against itself, in the same run.

    python -m benchmarks.store [--quick] [--directory DIR]

On SQLite in a temporary directory, and on PostgreSQL where it is installed (a server of its own). A written group has
four candidates of 30 tokens with log-probabilities and one image row; to every fourth comes a signal, with its feed
entry. 64 writers at once, each waiting for its acknowledgement.

- `commits_per_ack`: transactions for each acknowledged write.
- `group_commit_gain`: acknowledgements a second, against the very same writer with a commit for each request. The peer
  is the naive way on the same schema and library, not another product.
- `group_commit_gain_slow_disk`: the same with 4 ms added to each sync.
- `throughput_at_1m`, `p99_growth`: with a million groups in the store, against an empty one.
- `feed_read_growth`: reading the feed's newest 1,000 entries with their groups and signals, with a million groups
  against 10,000.
- `bytes_per_group`: of the database, indices and all; image bytes lie elsewhere.

Windows of both sides alternate, and ratios are medians over the pairs. `--quick` fills in 50,000 groups, and its
figures are named so (`throughput_at_50k`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import Connection, insert

from benchmarks._postgres import Cluster, find_binaries, running
from server import faults
from server.ids import candidate_id, new_id
from server.store import feed, groups, schema, signals
from server.store.database import MAX_BATCH, Database
from server.store.postgres import PostgresDatabase
from server.store.records import (
    CandidateRecord,
    FeedKind,
    GroupRecord,
    GroupState,
    MediaRecord,
    SignalKind,
    SignalRecord,
)
from server.store.sqlite import SqliteDatabase

ALIAS = "default"
CONCURRENCY = 64
CANDIDATES = 4
TOKENS = 30
PROMPT_TOKENS = 90
GROUPS_PER_SIGNAL = 4
SLOW_SYNC_MS = 4
FEED_ENTRIES = 1000
FEW_GROUPS = 10_000
FILL_BATCH = 1000
TARGETS = {
    "commits_per_ack": "≤ 0.1",
    "group_commit_gain": "≥ 2.5",
    "group_commit_gain_slow_disk": "≥ 10",
    "throughput_at_1m": "≥ 0.55",
    "p99_growth": "≤ 3",
    "feed_read_growth": "≈ 1",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the run is."""

    groups: int
    pairs: int
    window_s: float
    reads: int

    @property
    def label(self) -> str:
        return "1m" if self.groups == 1_000_000 else f"{self.groups // 1000}k"


FULL = Plan(groups=1_000_000, pairs=7, window_s=3.0, reads=21)
QUICK = Plan(groups=50_000, pairs=3, window_s=1.5, reads=9)


# --- what is written --------------------------------------------------------------------------------------


class Writer:
    """Makes groups that look like those of a busy service. Their arrays and texts repeat, their keys do not."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._patterns = [self._pattern() for _ in range(64)]

    def _pattern(self) -> GroupRecord:
        rng = self._rng
        candidates = tuple(
            CandidateRecord(
                id="",
                position=position,
                adapter="a00001-0123456789ab",
                variant="",
                text=" ".join(rng.choices(["a", "red", "blue", "circle", "square", "left", "of", "the"], k=TOKENS)),
                shown_text=None,
                token_ids=tuple(rng.randrange(150_000) for _ in range(TOKENS)),
                logprobs=tuple(-rng.random() for _ in range(TOKENS)),
                finish_reason="stop",
                is_shown=position == 0,
                is_blocked=False,
                probability=1.0,
                total=rng.random(),
                scores={"implicit": ["1", rng.random()], "length": ["1", rng.random()]},
                verdicts={"codes": ["1", "allow", ""]},
            )
            for position in range(CANDIDATES)
        )
        return GroupRecord(
            id="",
            tenant="default",
            alias=ALIAS,
            state=GroupState.COMPLETED,
            created_at=0.0,
            generation=1,
            adapter="a00001-0123456789ab",
            is_canary=False,
            user_hash=None,
            prompt_digest="",
            is_holdout=rng.random() < 0.1,
            regenerate_of=None,
            prompt=[],
            sampling={"temperature": 1.0, "top_p": 1.0, "max_tokens": 64, "seed": rng.randrange(2**31)},
            on_policy_sampling=True,
            prompt_token_ids=tuple(rng.randrange(150_000) for _ in range(PROMPT_TOKENS)),
            base_digest=rng.randbytes(32).hex(),
            engine_version="0.32.0",
            selection="argmax",
            degraded=(),
            candidates=candidates,
            media=(),
        )

    def group(self) -> GroupRecord:
        rng = self._rng
        pattern = rng.choice(self._patterns)
        completion, sha256 = new_id("chatcmpl"), rng.randbytes(32).hex()
        content = [{"image": sha256, "mime": "image/png"}, {"text": "Describe the image."}]
        return dataclasses.replace(
            pattern,
            id=completion,
            created_at=time.time(),
            user_hash=hashlib.sha256(str(rng.randrange(10_000)).encode()).hexdigest(),
            prompt_digest=sha256,
            prompt=[{"role": "user", "content": content}],
            candidates=tuple(
                dataclasses.replace(one, id=candidate_id(completion, one.position)) for one in pattern.candidates
            ),
            media=(MediaRecord(sha256, "image/png", 4000),),
        )

    def signal(self, group: GroupRecord) -> SignalRecord:
        candidate = group.candidates[0].id
        return SignalRecord(
            id=new_id("sig"),
            group_id=group.id,
            kind=SignalKind.RATING,
            slot=f"rating:{candidate}",
            annotator=group.user_hash or "",
            created_at=group.created_at,
            payload={"candidate_id": candidate, "rating": 1.0},
        )


def write_signal(connection: Connection, signal: SignalRecord) -> None:
    signals.insert_signal(connection, signal)
    feed.append(connection, ALIAS, signal.group_id, FeedKind.SIGNAL, signal.created_at)


def write_many(connection: Connection, made: Sequence[GroupRecord], said: Sequence[SignalRecord]) -> None:
    """What the loads write one by one, in a few statements."""
    groups.insert_groups(connection, made)
    connection.execute(insert(schema.signals), [dataclasses.asdict(one) for one in said])
    feed.append_all(connection, ALIAS, [one.group_id for one in said], FeedKind.SIGNAL, time.time())


async def fill(database: Database, writer: Writer, count: int, advance: Callable[[int], None]) -> None:
    """Put `count` groups in."""
    for _ in range(0, count, FILL_BATCH):
        made = [writer.group() for _ in range(FILL_BATCH)]
        said = [writer.signal(one) for one in made[::GROUPS_PER_SIGNAL]]
        await database.write(functools.partial(write_many, made=made, said=said))
        advance(FILL_BATCH)


# --- what is measured -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of load."""

    acks_per_s: float
    commits_per_ack: float
    latencies_s: list[float]


async def load(database: Database, writer: Writer, window_s: float) -> Window:
    """`CONCURRENCY` users at once, each waiting for what it wrote to be acknowledged."""
    latencies: list[float] = []
    commits = database.commits
    started = time.perf_counter()

    async def timed(write: Awaitable[None]) -> None:
        begun = time.perf_counter()
        await write
        latencies.append(time.perf_counter() - begun)

    async def user(number: int) -> None:
        while time.perf_counter() - started < window_s:
            group = writer.group()
            await timed(database.add(groups.insert_groups, group))
            number += 1
            if number % GROUPS_PER_SIGNAL == 0:
                await timed(database.write(functools.partial(write_signal, signal=writer.signal(group))))

    await asyncio.gather(*(user(number) for number in range(CONCURRENCY)))
    acks_per_s = len(latencies) / (time.perf_counter() - started)
    return Window(acks_per_s, (database.commits - commits) / len(latencies), latencies)


async def alternate(
    first: Database, second: Database, writer: Writer, plan: Plan, advance: Callable[[int], None]
) -> tuple[list[Window], list[Window]]:
    """Pairs of windows; which side goes first alternates. One pair before them warms both up."""
    windows: dict[Database, list[Window]] = {first: [], second: []}
    for pair in range(plan.pairs + 1):
        for database in (first, second) if pair % 2 else (second, first):
            window = await load(database, writer, plan.window_s if pair else plan.window_s / 3)
            windows[database] += [window] if pair else []
        advance(1)
    return windows[first], windows[second]


def ratio(ours: Sequence[Window], theirs: Sequence[Window]) -> float:
    return statistics.median(one.acks_per_s / other.acks_per_s for one, other in zip(ours, theirs, strict=True))


def p99_ms(windows: Sequence[Window]) -> float:
    return 1000 * statistics.median(statistics.quantiles(one.latencies_s, n=100)[-1] for one in windows)


async def feed_read_s(database: Database) -> float:
    """Seconds to read the newest entries with everything that belongs to them."""

    def read(connection: Connection) -> int:
        entries = feed.read_after(connection, ALIAS, feed.head(connection, ALIAS) - FEED_ENTRIES, FEED_ENTRIES)
        changed = [entry.group_id for entry in entries]
        signals.live_signals(connection, changed)
        return len(groups.get_groups(connection, changed))

    started = time.perf_counter()
    found = await database.read(read)
    if found != FEED_ENTRIES:
        sys.exit(f"the feed gave {found} groups instead of {FEED_ENTRIES}")
    return time.perf_counter() - started


# --- the two databases ------------------------------------------------------------------------------------


class Sqlite:
    """Files in one directory."""

    name = "SQLite"
    prefix = ""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._paths: dict[Database, Path] = {}

    def new(self, max_batch: int = MAX_BATCH) -> Database:
        path = self._directory / f"{len(self._paths)}.db"
        database = SqliteDatabase(path, read_connections=2, max_batch=max_batch)
        self._paths[database] = path
        return database

    def size_bytes(self, database: Database) -> int:
        return self._paths[database].stat().st_size


class Postgres:
    """Databases of one server."""

    name = "PostgreSQL"
    prefix = "postgresql_"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._urls: dict[Database, str] = {}

    def new(self, max_batch: int = MAX_BATCH) -> Database:
        url = self._cluster.create()
        database = PostgresDatabase(url, read_connections=2, max_batch=max_batch)
        self._urls[database] = url
        return database

    def size_bytes(self, database: Database) -> int:
        name = self._urls[database].rpartition("/")[2]
        return int(self._cluster.sql("postgres", f"SELECT pg_database_size('{name}')"))


@contextlib.asynccontextmanager
async def opened(*databases: Database) -> AsyncIterator[None]:
    for database in databases:
        await database.start()
    yield
    for database in databases:
        await database.close()


async def measure(kind: Sqlite | Postgres, plan: Plan, progress: Progress) -> dict[str, float]:
    """All figures of one kind of database."""
    writer = Writer(seed=1)
    figures: dict[str, float] = {}

    def task(text: str, total: int) -> Callable[[int], None]:
        number = progress.add_task(f"{kind.name}: {text}", total=total)
        return lambda amount: progress.advance(number, amount)

    together, alone = kind.new(), kind.new(max_batch=1)
    async with opened(together, alone):
        ours, theirs = await alternate(together, alone, writer, plan, task("a commit each", plan.pairs + 1))
        figures["acks_per_s"] = statistics.median(one.acks_per_s for one in ours)
        figures["commits_per_ack"] = statistics.median(one.commits_per_ack for one in ours)
        figures["group_commit_gain"] = ratio(ours, theirs)
        with faults.armed(f"store.sync=delay:{SLOW_SYNC_MS}"):
            ours, theirs = await alternate(together, alone, writer, plan, task("slow disk", plan.pairs + 1))
        figures["group_commit_gain_slow_disk"] = ratio(ours, theirs)

    full, empty, few = kind.new(), kind.new(), kind.new()
    async with opened(full, empty, few):
        await fill(few, writer, FEW_GROUPS, task("filling", FEW_GROUPS))
        started = time.perf_counter()
        await fill(full, writer, plan.groups, task("filling", plan.groups))
        figures["fill_s"] = time.perf_counter() - started
        figures["bytes_per_group"] = kind.size_bytes(full) / plan.groups
        reads = task("feed reads", plan.reads)
        growth = []
        for _ in range(plan.reads):
            growth.append(await feed_read_s(full) / await feed_read_s(few))
            reads(1)
        figures["feed_read_growth"] = statistics.median(growth)
        ours, theirs = await alternate(full, empty, writer, plan, task("full against empty", plan.pairs + 1))
        figures[f"throughput_at_{plan.label}"] = ratio(ours, theirs)
        figures["p99_growth"] = p99_ms(ours) / p99_ms(theirs)
        figures["p99_ms"] = p99_ms(ours)
    return figures


def sync_ms(directory: Path) -> float:
    """Median of a small write and its sync: what a commit costs on this disk at least."""
    times = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def report(result: dict[str, Any], kinds: Sequence[tuple[str, str]]) -> None:
    table = Table("figure", "target", *(name for name, _ in kinds), title=f"the store, {result['groups']:,} groups")
    names = [name for name in result if not name.startswith("postgresql_") and isinstance(result[name], float)]
    for name in names:
        values = [f"{result[prefix + name]:.3f}" if prefix + name in result else "" for _, prefix in kinds]
        table.add_row(name, TARGETS.get(name, ""), *values)
    Console().print(table)
    print("RESULT", json.dumps({name: round(value, 4) for name, value in result.items()}))


def kinds_in(directory: Path, stack: contextlib.ExitStack) -> Iterator[Sqlite | Postgres]:
    yield Sqlite(directory)
    binaries = find_binaries()
    if binaries is None:
        print("PostgreSQL is not installed: its figures are left out", file=sys.stderr)
    else:
        yield Postgres(stack.enter_context(running(binaries)))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.store", description="The store: group commit against single commits, full, empty."
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.groups:,} groups instead of {FULL.groups:,}")
    parser.add_argument("--directory", type=Path, help="where files are written; a real disk, with 10 GB free")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    started = time.perf_counter()
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="plumbline-store-", dir=arguments.directory) as directory,
        Progress() as progress,
    ):
        result: dict[str, Any] = {"groups": plan.groups, "sync_ms": sync_ms(Path(directory))}
        kinds = []
        for kind in kinds_in(Path(directory), stack):
            kinds.append((kind.name, kind.prefix))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the service's own
                figures = runner.run(measure(kind, plan, progress))
            result.update({kind.prefix + name: value for name, value in figures.items()})
    result["seconds"] = time.perf_counter() - started
    report(result, kinds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

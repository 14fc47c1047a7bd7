"""What can happen to the database's file: full, locked, read-only, taken, cut short, damaged, gone.

Each gives a clear refusal, loses nothing that was acknowledged, never makes an empty database in place of a lost one,
and is over without a restart where its cause is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server import faults
from server.config import Config
from server.installation import StartError
from server.offline import check
from server.store.sqlite import SqliteDatabase
from tests.api.conftest import Stack, config_for
from tests.faults import disk
from tests.faults.service import Ledger, Service, assert_kept, running, settle, talk

DATABASE = "plumbline.db"
needs_disk = pytest.mark.skipif(not disk.available(), reason="sqlite3 is not linked to a shared library")


async def fill(stack: Stack, ledger: Ledger, turns: int = 3) -> None:
    for turn in range(turns):
        await talk(stack.client, ledger, f"{len(ledger.chats)}-{turn}")


async def is_refused(stack: Stack, ledger: Ledger) -> None:
    """Chat and feedback get 503 with Retry-After."""
    known = ledger.acknowledged
    await talk(stack.client, ledger, f"refused-{len(ledger.refused)}")
    assert ledger.acknowledged == known
    response = ledger.refused[-1]
    assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_unavailable")
    assert int(response.headers["retry-after"]) > 0


async def works_again(stack: Stack, ledger: Ledger) -> None:
    known = len(ledger.signals)
    await settle(stack.client, ledger)
    await talk(stack.client, ledger, f"again-{known}")
    assert len(ledger.signals) > known
    assert (await stack.client.get("/readyz")).status_code == 200
    await stack.services.database.read(lambda c: assert_kept(c, ledger))


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts no file systems")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")


@needs_root
async def test_a_full_disk(tmp_path: Path, ledger: Ledger) -> None:
    """A disk that is really full refuses, and works again when there is room."""
    with small_disk(tmp_path, "6m"):
        async with running(config_for(tmp_path)) as stack:
            await fill(stack, ledger)
            ballast = tmp_path / "ballast"
            with contextlib.suppress(OSError):
                ballast.write_bytes(b"\0" * shutil.disk_usage(tmp_path).free)
            while not ledger.refused:
                await talk(stack.client, ledger, f"until-{len(ledger.chats)}")
            await is_refused(stack, ledger)
            ballast.unlink()
            await works_again(stack, ledger)


@needs_disk
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
async def test_a_sync_that_fails(tmp_path: Path, ledger: Ledger, error: str) -> None:
    """Nothing is confirmed on the word of a sync that failed, and readiness is gone until one works."""
    installed = disk.install()
    async with running(config_for(tmp_path)) as stack:
        await fill(stack, ledger)
        with installed.armed(f"*.sync=fail:{error}"):
            await is_refused(stack, ledger)
            await is_refused(stack, ledger)
            readiness = await stack.client.get("/readyz")
            assert readiness.status_code == 503
            assert readiness.json()["detail"]["store"] == "unavailable"
        await works_again(stack, ledger)


async def test_readiness_comes_back_by_itself(tmp_path: Path, ledger: Ledger) -> None:
    """Where readiness keeps requests away, the store is tried without one."""
    async with running(config_for(tmp_path)) as stack:
        with faults.armed("store.before_commit=fail"):
            await is_refused(stack, ledger)
        for _ in range(200):
            if (await stack.client.get("/readyz")).status_code == 200:
                break
            await asyncio.sleep(0.05)
        assert stack.services.database.is_healthy


@pytest.mark.slow
async def test_a_locked_file(tmp_path: Path, ledger: Ledger) -> None:
    """Somebody else's lock is waited for, then refused; it puts nothing in doubt."""
    async with running(config_for(tmp_path)) as stack:
        await fill(stack, ledger)
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await is_refused(stack, ledger)
            assert stack.services.database.is_healthy
            other.execute("ROLLBACK")
        await works_again(stack, ledger)


@needs_disk
async def test_a_file_that_becomes_read_only(tmp_path: Path, ledger: Ledger) -> None:
    """As systems do after an error of the disk below: refused, and over when it can be written again."""
    installed = disk.install()
    async with running(config_for(tmp_path)) as stack:
        await fill(stack, ledger)
        with installed.armed("*.write|*.truncate=fail:EROFS"):
            await is_refused(stack, ledger)
            await is_refused(stack, ledger)
        await works_again(stack, ledger)


@needs_root
async def test_a_read_only_state_is_refused_at_the_start(tmp_path: Path, ledger: Ledger) -> None:
    """One line, and nothing changed."""
    with small_disk(tmp_path, "64m"):
        config = await stopped_state(tmp_path, ledger)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)  # noqa: ASYNC221 - nothing else runs
        with pytest.raises(StartError, match="Read-only"):
            async with running(config):
                pass


async def test_a_file_that_is_taken_away_from_a_running_server(tmp_path: Path, ledger: Ledger) -> None:
    """What goes to a file without a name is not acknowledged, no empty database takes its place, and it may return."""
    async with running(config_for(tmp_path)) as stack:
        await fill(stack, ledger)
        (tmp_path / DATABASE).rename(tmp_path / "elsewhere")
        await is_refused(stack, ledger)
        await is_refused(stack, ledger)
        assert not (tmp_path / DATABASE).exists()
        assert (await stack.client.get("/readyz")).status_code == 503


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """One process owns the state; the other says so in one line and leaves."""
    service = Service(tmp_path)
    service.start()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "server", "--config", service.config_file, "--check-state"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert "in use by another server" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    finally:
        service.kill()


async def stopped_state(directory: Path, ledger: Ledger) -> Config:
    """A state with something in it, that nobody holds."""
    config = config_for(directory)
    async with running(config) as stack:
        await fill(stack, ledger, turns=12)
    return config


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def other_content(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def flipped(offset: int) -> Callable[[Path], None]:
    """One bit of every page from the second on."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        for page in range(4096, len(data), 4096):
            data[page + offset] ^= 0x40
        path.write_bytes(data)

    return flip


def header_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 0x01
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [removed, emptied, cut_in_half, cut_short, other_content, header_flipped, flipped(0), flipped(3), flipped(8)],
)
async def test_a_damaged_file_is_noticed(tmp_path: Path, ledger: Ledger, damage: Callable[[Path], None]) -> None:
    """The check says so, the start is refused or the server answers no wrong thing; it is never made again, empty."""
    config = await stopped_state(tmp_path, ledger)
    path = tmp_path / DATABASE
    damage(path)
    before = path.read_bytes() if path.exists() else None
    problems = await check(config, lambda what, done, total: None)
    assert problems
    assert all(problem.what and problem.remedy for problem in problems)
    with contextlib.suppress(StartError):
        async with running(config) as stack:
            for completion in ledger.chats:
                response = await stack.client.post("/v1/feedback", json={"completion_id": completion, "rating": "up"})
                assert response.status_code in (200, 500, 503), response.text
    after = path.read_bytes() if path.exists() else None
    assert after is None if before is None else len(after or b"") >= len(before)


async def test_a_lost_database_can_be_given_up(tmp_path: Path, ledger: Ledger) -> None:
    """Only by hand: who removes the marker that the message names begins anew."""
    config = await stopped_state(tmp_path, ledger)
    (tmp_path / DATABASE).unlink()
    with pytest.raises(StartError, match=r"plumbline\.db\.exists"):
        async with running(config):
            pass
    (tmp_path / f"{DATABASE}.exists").unlink()
    async with running(config) as stack:
        await talk(stack.client, Ledger(), "anew")


async def test_power_loss(tmp_path: Path, ledger: Ledger) -> None:
    """A copy of the files at the moment of an acknowledgement, with a torn end, holds all that was acknowledged."""
    config = config_for(tmp_path / "state")
    rng = random.Random(7)
    async with running(config) as stack:
        for turn in range(8):
            await talk(stack.client, ledger, f"{turn}")
            copy = tmp_path / f"copy-{turn}"
            copy.mkdir()
            for name in (DATABASE, f"{DATABASE}-wal"):
                shutil.copy(config.store.directory / name, copy / name)
            with (copy / f"{DATABASE}-wal").open("ab") as log:
                log.write(rng.randbytes(rng.randrange(1, 20_000)))
            database = SqliteDatabase(copy / DATABASE, read_connections=1)
            await database.start()
            await database.read(lambda c: assert_kept(c, ledger))
            assert await database.check() == []
            await database.close()

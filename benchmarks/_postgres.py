"""A PostgreSQL server of one's own, on loopback, in a temporary directory; thrown away afterwards.

For the tests and for the benchmarks. It syncs, as a real one does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def find_binaries() -> Path | None:
    """The directory of `initdb` and `pg_ctl`, where PostgreSQL is installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server on loopback."""

    binaries: Path
    directory: Path
    port: int

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, name: str) -> str:
        return f"postgresql://plumbline@127.0.0.1:{self.port}/{name}"

    def create(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.sql("postgres", f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def sql(self, name: str, statement: str) -> str:
        """Run one statement with psql, unaligned."""
        command: list[str | Path] = [
            self.binaries / "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.url(name),
            "-c",
            statement,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def control(self, *arguments: str) -> None:
        run_as_owner(self.directory, [self.binaries / "pg_ctl", "-D", self.data, "-w", *arguments])

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.directory}"
        self.control("-l", str(self.directory / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.control("-m", mode, "stop")


@contextlib.contextmanager
def running(binaries: Path) -> Iterator[Cluster]:
    """A new cluster, running for the length of a block."""
    directory = Path(tempfile.mkdtemp(prefix="plumbline-pg-"))
    if os.getuid() == 0:
        shutil.chown(directory, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cluster = Cluster(binaries, directory, port)
    try:
        run_as_owner(
            directory,
            [binaries / "initdb", "-D", cluster.data, "-U", "plumbline", "-A", "trust", "-E", "UTF8", "--locale=C"],
        )
        cluster.start()
        yield cluster
        cluster.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_as_owner(directory: Path, command: list[Path | str]) -> None:
    """PostgreSQL refuses to run as root: then it runs as the `postgres` user."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    done = subprocess.run(
        [*prefix, *map(str, command)],
        check=False,
        cwd=directory,
        stdout=subprocess.DEVNULL,  # the server would keep a pipe open
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr}")

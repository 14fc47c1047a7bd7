"""Starts and ends the processes of one installation: the server (with its engine) and the learner, as commands.

Promises: nothing outlives the stack. Each process leads a group of its own; on leaving the `with` block, also by
Ctrl-C or SIGTERM, they end in order (learner, then server, which ends its engine), and what does not go in time is
killed with its group. When the stack itself is killed, Linux tells them to go (parent-death signal). A process that
dies while it is needed, or is not ready in time, raises `StackError` with the end of its log.

Leaves out restarts: the server supervises its engine, and the learner resumes when it is started again. Used by
`plumbline up` and the demo. Use it on the main thread: the parent-death signal follows the thread that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

from clients.client import PlumblineClient, PlumblineError
from clients.toml import to_toml

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 600.0
STOP_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.25
LOG_TAIL_LINES: Final = 20
_PR_SET_PDEATHSIG: Final = 1

Progress = Callable[[str], None]
"""Told what is being waited for, again and again."""


class StackError(Exception):
    """A process could not be started, or died. The message ends with its log's last lines."""


@dataclass(slots=True)
class Command:
    """One process of the stack, in a process group of its own; its output goes to `log`."""

    name: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Raises `StackError` when the command cannot be run."""
        try:
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(
                    self.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.environment},
                    start_new_session=True,
                    preexec_fn=_parent_death_signal(),  # noqa: PLW1509 - it only calls prctl
                )
        except OSError as error:
            raise StackError(f"the {self.name} cannot be started: {error}") from error

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before it was started."""
        return self._process.poll() if self._process else None

    def require_running(self) -> None:
        """Raises `StackError` once it has ended."""
        if self.exit_code is not None:
            raise StackError(f"the {self.name} ended with status {self.exit_code}; {self.last_words()}")

    def last_words(self) -> str:
        """Where the log is, and how it ends."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            lines = []
        return "\n".join([f"the end of {self.log}:", *(f"  {line}" for line in lines or ["(empty)"])])

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it, politely first; what is left of its group is killed. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Stack:
    """One installation in `directory`: configuration file, state and logs lie there.

    `settings` is the server's configuration tree; `http` and `store` are filled in where they are silent.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], *, port: int | None = None) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.config_file = directory / "plumbline.toml"
        self._settings = settings
        self._logs = directory / "logs"
        self._server = Command("server", self._server_command(), self._logs / "server.log")
        self._learners: list[Command] = []

    def __enter__(self) -> Self:
        """Write the configuration and start the server; it is not ready yet (`wait_ready`)."""
        if self.port_is_taken():
            raise StackError(f"port {self.port} of {HOST} is in use; choose another one")
        self._logs.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(to_toml(self.configuration()), encoding="utf-8")
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def configuration(self) -> dict[str, Any]:
        """The server's configuration, as it is written."""
        http = {"host": HOST, "port": self.port, "metrics_port": free_port(), **self._settings.get("http", {})}
        store = {"directory": self.directory.resolve() / "state", **self._settings.get("store", {})}
        return {**self._settings, "http": http, "store": store}

    @property
    def server_pid(self) -> int | None:
        """The server's process, once it was started."""
        return self._server.pid

    def port_is_taken(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError:
                return True
        return False

    def wait_ready(self, progress: Progress = lambda _: None, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until an answer can be generated; raises `StackError`."""
        started = time.monotonic()
        with PlumblineClient(self.url, timeout_s=5.0, max_attempts=1) as client:
            while True:
                self._server.require_running()
                doing = _readiness(client)
                if doing is None:
                    return
                progress(doing)
                if time.monotonic() - started > timeout_s:
                    raise StackError(f"not ready after {timeout_s:.0f} s ({doing}); {self._server.last_words()}")
                time.sleep(POLL_S)

    def start_learner(self, alias: str, *options: str) -> None:
        """Start a learner for this alias; `options` are further arguments of `python -m learner`."""
        state = self.directory / "learner"
        command = [sys.executable, "-m", "learner", "--server", self.url, "--alias", alias, "--state", str(state)]
        # Threads that wait for work must not burn the cores that the engine computes on.
        learner = Command(
            "learner", [*command, *options], self._logs / f"learner-{alias}.log", {"OMP_WAIT_POLICY": "PASSIVE"}
        )
        learner.start()
        self._learners.append(learner)

    def check(self) -> None:
        """Raises `StackError` when one of the processes has ended."""
        for command in (self._server, *self._learners):
            command.require_running()

    def stop(self) -> None:
        """End everything in order. Idempotent."""
        for learner in self._learners:
            learner.stop()
        self._server.stop()

    def _server_command(self) -> list[str]:
        return [sys.executable, "-m", "server", "--config", str(self.config_file)]


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `KeyboardInterrupt` as Ctrl-C does, so that `with` blocks are left in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _readiness(client: PlumblineClient) -> str | None:
    """None when the server can answer; else what it is doing."""
    try:
        health = client.ready()
    except PlumblineError:
        return "the server starts"
    if health.status == "ok":
        return None
    return ", ".join(f"{part} {state}" for part, state in health.detail.items()) or "starting"


def _parent_death_signal() -> Callable[[], None] | None:
    """To be called in the child between fork and exec; the library is loaded here, before the fork."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

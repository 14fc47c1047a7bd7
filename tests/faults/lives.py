"""The real learner in a process of its own, which dies where it is told to.

A life is forked from a process that has imported torch already, so it costs a fraction of a second, and has everything
else to itself: the model, the connection, the lock. It is ended by a signal and nothing else, at a point that the
learner names, at a step of the optimiser, or at the very moment when a file of its directory is made, renamed or
removed (Python's audit events): so a checkpoint can be written and not renamed.
"""

from __future__ import annotations

import fnmatch
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from clients.client import PlumblineClient
from learner.errors import LearnerError
from learner.loop import Learner, Options
from learner.workplace import Pace

FILE_EVENTS: Final = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0}
"""Audit event → which of its arguments names the file."""
ALIAS: Final = "default"


@dataclass(frozen=True, slots=True)
class Death:
    """At the `hit`-th time that a point of this name, or of names that fit this pattern, is passed.

    Points: those of the learner; `optimizer.begin` and `optimizer.end`; `rename:NAME`, `remove:NAME`, `mkdir:NAME`,
    `rmdir:NAME`, before it happens to the file (a renamed one has its new name).
    """

    point: str
    hit: int = 1
    by: signal.Signals = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Life:
    url: str
    directory: Path
    death: Death | None = None
    once: bool = True
    lease_ttl_s: float = 60.0
    checkpoint_steps: int = 2
    max_tokens: int = 8192
    pause_s: float = 0.0
    """Every step takes so much longer."""


class Fate:
    """Notes every point that is passed, in a file that outlives the process, and dies where it has to."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._hits = 0
        self._trace = os.open(trace_of(life.directory), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._pause = threading.Event()

    def pass_by(self, point: str) -> None:
        os.write(self._trace, f"{point}\n".encode())
        death = self._life.death
        if death is not None and fnmatch.fnmatchcase(point, death.point):
            self._hits += 1
            if self._hits == death.hit:
                os.kill(os.getpid(), death.by)
        if point == "step" and self._life.pause_s:
            self._pause.wait(self._life.pause_s)

    def watch_files(self) -> None:
        root = str(self._life.directory / ALIAS)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            place = FILE_EVENTS.get(event)
            if place is not None and str(arguments[place]).startswith(root):
                self.pass_by(f"{event.removeprefix('os.')}:{Path(str(arguments[place])).name}")

        sys.addaudithook(hook)


def trace_of(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.trace")


def live(life: Life) -> None:
    """The process's whole life; its exit status is the learner's."""
    torch.set_num_threads(1)
    log = logging.FileHandler(life.directory.with_name(f"{life.directory.name}.log"))
    logging.basicConfig(level=logging.INFO, handlers=[log], force=True)
    fate = Fate(life)
    fate.watch_files()
    register_optimizer_step_pre_hook(lambda *_: fate.pass_by("optimizer.begin"))
    register_optimizer_step_post_hook(lambda *_: fate.pass_by("optimizer.end"))
    pace = Pace(checkpoint_steps=life.checkpoint_steps, lease_ttl_s=life.lease_ttl_s, max_tokens=life.max_tokens)
    options = Options(ALIAS, life.directory, once=life.once, device="cpu", poll_s=0.05, pace=pace)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with PlumblineClient(life.url, first_delay_s=0.05) as client:
        try:
            status = Learner(client, options, stop, fate.pass_by).run()
        except LearnerError as error:
            logging.getLogger("learner").error("%s", error)
            status = 1
    sys.exit(status)


def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


CONTEXT: Final = _context()


@dataclass(slots=True)
class Person:
    """One learner through any number of lives, on one directory."""

    directory: Path
    process: ForkServerProcess | None = None

    def begin(self, url: str, death: Death | None = None, **changes: Any) -> ForkServerProcess:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self.process = CONTEXT.Process(target=live, args=(Life(url, self.directory, death, **changes),), daemon=True)
        self.process.start()
        return self.process

    def end(self, timeout_s: float = 60.0) -> int:
        """Wait for its end; the exit status, or minus the signal."""
        assert self.process is not None
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"it still lives\n{self.log}"
        return self.process.exitcode

    def live(self, url: str, death: Death | None = None, **changes: Any) -> int:
        self.begin(url, death, **changes)
        return self.end()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None and self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def passed(self) -> list[str]:
        """Every point of all lives, in order."""
        file = trace_of(self.directory)
        return file.read_text().splitlines() if file.exists() else []

    @property
    def log(self) -> str:
        file = self.directory.with_name(f"{self.directory.name}.log")
        return file.read_text() if file.exists() else ""

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
        pause = threading.Event()
        waited_s = 0.0
        while not is_so():
            assert waited_s < timeout_s, f"it did not happen\n{self.passed[-20:]}\n{self.log[-3000:]}"
            pause.wait(0.02)
            waited_s += 0.02

    @property
    def state_dir(self) -> Path:
        return self.directory / ALIAS

    def kept(self, name: str) -> set[str]:
        """Names of the files in one of its directories."""
        return {path.name for path in (self.state_dir / name).iterdir()}

"""Blocking work in processes of its own: what would hold the interpreter's lock, or might bring the process down."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Aside:
    """At most `workers` processes, started at first use, and again when one died. Safe for use by several threads."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def run(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """The result, waited for; raises what `function` raises, and `BrokenProcessPool` where it kills its process.

        All that is pickled. A death ends what its neighbours were at too, so everything gets a second try.
        """
        pool = self._open(None)
        try:
            return pool.submit(function, *arguments, **named).result()
        except BrokenProcessPool:
            return self._open(pool).submit(function, *arguments, **named).result()

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, broken: ProcessPoolExecutor | None) -> ProcessPoolExecutor:
        """The present pool, or a new one in the place of `broken`."""
        with self._lock:
            if self._pool is None or self._pool is broken:
                self._pool = ProcessPoolExecutor(
                    self._workers, mp_context=multiprocessing.get_context("spawn"), initializer=_live_with_parent
                )
            return self._pool


def _live_with_parent() -> None:
    """Leave interrupts to the parent, and do not outlive it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)

"""Peers that run as processes of their own, each in an environment of its own: theirs are other versions than ours."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from clients.stack import HOST, Command, StackError


class NotInstalled(Exception):
    """The peer cannot be had here; the message says why."""


def make_environment(name: str, directory: Path, *installs: Sequence[str]) -> None:
    """A new environment with what each of `installs` (pip's arguments) asks for. Raises `NotInstalled`."""
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    try:
        for step in ([sys.executable, "-m", "venv", "--clear", str(directory)], *([*pip, *one] for one in installs)):
            subprocess.run(step, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalled(f"{name}: {lines[-1] if lines else error}") from error


class Proxy:
    """A peer's server on `url`, once it is entered. `health` is the path that answers 200 when it is up."""

    def __init__(self, command: Command, port: int, health: str, timeout_s: float) -> None:
        self.url = f"http://{HOST}:{port}"
        self._command = command
        self._health = f"{self.url}{health}"
        self._timeout_s = timeout_s

    @property
    def pid(self) -> int:
        assert self._command.pid is not None
        return self._command.pid

    def __enter__(self) -> Self:
        """Start it and wait for it; raises `StackError`."""
        self._command.start()
        deadline = time.monotonic() + self._timeout_s
        while not self._is_up():
            self._command.require_running()
            if time.monotonic() > deadline:
                self._command.stop()
                raise StackError(f"not up after {self._timeout_s:.0f} s; {self._command.last_words()}")
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._command.stop()

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(self._health, timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

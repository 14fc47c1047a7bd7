"""Nothing of a guarded command outlives its starter. Stand-ins for vLLM: a parent with a stubborn child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from server.engine import guard

PATIENCE_S = 20.0

# The child ignores SIGTERM, as an engine core that is stuck would; the parent says when both are up.
FAMILY = """
import signal, subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
time.sleep(600)
"""

STARTER = """
import subprocess, sys, time
guard = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(guard.stdout.readline().decode().strip(), guard.pid, flush=True)
time.sleep(600)
"""


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while alive(group):
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.02)


class Family:
    """A starter, its guard, and the guarded parent with its child."""

    def __init__(self, tmp_path: Path) -> None:
        self.log = tmp_path / "engine.log"
        arguments = [guard.__file__, str(self.log), sys.executable, "-c", FAMILY]
        self.starter = subprocess.Popen([sys.executable, "-c", STARTER, *arguments], stdout=subprocess.PIPE)
        assert self.starter.stdout is not None
        self.group, self.guard = map(int, self.starter.stdout.readline().split())
        deadline = time.monotonic() + PATIENCE_S
        while not self.log.exists() or b"ready" not in self.log.read_bytes():
            assert time.monotonic() < deadline, "the command did not start"
            time.sleep(0.02)

    def end(self) -> None:
        self.starter.kill()
        self.starter.communicate()
        guard.end_group(self.group)


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    started = Family(tmp_path)
    yield started
    started.end()


def test_a_killed_starter_takes_everything_with_it(family: Family) -> None:
    """Kill -9 of the server: the child that ignores SIGTERM ends too."""
    assert alive(family.group)
    family.starter.kill()
    wait_until_gone(family.group)


def test_a_killed_command_takes_its_children_with_it(family: Family) -> None:
    """Kill -9 of the engine: what it had started ends, and so does the guard."""
    os.kill(family.group, signal.SIGKILL)
    wait_until_gone(family.group)


def test_a_killed_guard_takes_the_command_with_it(family: Family) -> None:
    """Linux ends the command itself; its children are the starter's to end, which knows the group."""
    if sys.platform != "linux":
        pytest.skip("parent-death signals are Linux's")
    os.kill(family.guard, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{family.group}/stat").exists() and " Z " not in Path(f"/proc/{family.group}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    guard.end_group(family.group)
    wait_until_gone(family.group)


def test_the_exit_code_is_handed_on(tmp_path: Path) -> None:
    """As a shell would: the code, or 128 + the signal's number."""
    for script, expected in (("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 128 + 9)):
        command = [sys.executable, guard.__file__, str(tmp_path / "log"), sys.executable, "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.wait(PATIENCE_S) == expected


def test_the_log_is_bounded(tmp_path: Path) -> None:
    """One predecessor is kept; the last line is in the newest file."""
    log = tmp_path / "engine.log"
    lines = b"".join(b"line %06d\n" % number for number in range(100_000))
    guard.copy_bounded(BytesIO(lines), log, max_bytes=200_000)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["engine.log", "engine.log.1"]
    assert sum(path.stat().st_size for path in files) < 2 * (200_000 + 65_536)
    assert log.read_bytes().endswith(b"line 099999\n")

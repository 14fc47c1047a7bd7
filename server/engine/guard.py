"""Runs one command so that nothing of it outlives its starter: `python guard.py LOG COMMAND...`.

A small process between the server and vLLM, with the standard library only. vLLM starts further processes
(engine core, workers) that survive the death of their parent; the guard ends them all:

- its standard input ends (the server stopped, or was killed with -9): the command gets SIGTERM, and after a
  grace period its whole process group SIGKILL;
- the command ends by itself or is killed: what it has left behind in the group gets SIGKILL;
- the guard itself is killed: Linux kills the command (parent-death signal), and the starter ends the group.

The command's output goes to LOG, of which one predecessor is kept, both bounded. Started by `launcher` alone,
as a file, so that nothing of the project is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

GRACE_S = 10.0
LAST_OUTPUT_S = 2.0
MAX_LOG_BYTES = 16 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def copy_bounded(source: BinaryIO, log: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Copy until the source ends. A full log becomes `LOG.1`; a disk that is full loses lines, not the engine."""
    target: BinaryIO | None = None
    size_bytes = max_bytes
    while piece := source.read1(65536):  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            if target is None or size_bytes >= max_bytes:
                if target is not None:
                    target.close()
                target, size_bytes = _fresh(log), 0
            target.write(piece)
            size_bytes += len(piece)
    if target is not None:
        target.close()


def _fresh(log: Path) -> BinaryIO:
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    return log.open("wb", buffering=0)


def end_group(group: int) -> None:
    """Kill whatever is left in a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _end_with_input(command: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    command.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(GRACE_S)
    end_group(command.pid)


def main(arguments: list[str]) -> int:
    """Exit with the command's code, as a shell would tell it. Its process group is the first line of output."""
    log, *command_line = arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # an interrupt is the starter's business: it closes our input
    command = subprocess.Popen(
        command_line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_prepare_child,  # noqa: PLW1509 - no thread has been started yet
    )
    assert command.stdout is not None
    sys.stdout.write(f"{command.pid}\n")
    sys.stdout.flush()
    copier = threading.Thread(target=copy_bounded, args=(command.stdout, Path(log)), daemon=True)
    copier.start()
    threading.Thread(target=_end_with_input, args=(command,), daemon=True).start()
    code = command.wait()
    end_group(command.pid)
    copier.join(LAST_OUTPUT_S)
    return code if code >= 0 else 128 - code


def _prepare_child() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Runs a command under limits: `python limited.py MEMORY_MB CPU_S COMMAND...`; becomes the command.

Started by `program` alone, as a file, so that nothing of the project is imported. Address space, processor time and
core dumps are limited before the command begins; where Linux allows it, the command dies with the server.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    memory_mb, cpu_s, *command = arguments
    memory_bytes = int(memory_mb) * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the operator's own command
    except OSError:
        return 127


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

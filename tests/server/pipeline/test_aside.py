"""Work in other processes: its results and errors come back, and a death there is not one here."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from server.errors import BadRequest
from server.pipeline.aside import Aside
from server.pipeline.decoding import verify
from tests.server.pipeline.test_decoding import GOOD, LIMITS


@pytest.fixture(scope="module")
def aside() -> Iterator[Aside]:
    opened = Aside(1)
    yield opened
    opened.close()


def test_results_and_errors_come_back_whole(aside: Aside) -> None:
    """From another process; an error keeps its code and what it says."""
    assert aside.run(os.getpid) != os.getpid()
    assert aside.run(verify, GOOD[-1], LIMITS) == verify(GOOD[-1], LIMITS)
    with pytest.raises(BadRequest) as caught:
        aside.run(verify, GOOD[-1][:-9], LIMITS)
    assert (caught.value.code, caught.value.param) == ("invalid_image", "messages")


def test_a_death_there_is_an_error_here_and_the_next_call_works(aside: Aside) -> None:
    """Also for whoever waited beside it."""
    with ThreadPoolExecutor(2) as threads:
        deadly = threads.submit(aside.run, os._exit, 9)
        innocent = threads.submit(aside.run, os.getpid)
        with pytest.raises(BrokenProcessPool):
            deadly.result(60)
    assert aside.run(os.getpid) != os.getpid()
    assert innocent.done()


def test_its_processes_end_with_ours() -> None:
    """Even when ours is killed."""
    script = (
        "import os\nfrom server.pipeline.aside import Aside\n"
        "if __name__ == '__main__':\n    print(Aside(1).run(os.getpid), flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == -signal.SIGKILL
    child, deadline = int(run.stdout), time.monotonic() + 10
    while time.monotonic() < deadline and _lives(child):
        time.sleep(0.02)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

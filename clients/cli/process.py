"""A process of the server's code that is given lines and tells, line by line, how far it is."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True, slots=True)
class Telling:
    lines: Iterable[bytes]
    """What it says."""
    _bar: Progress
    _task: TaskID

    def show(self, done: int, of: int, doing: str | None = None) -> None:
        """On the progress bar, where somebody watches."""
        self._bar.update(self._task, description=doing, completed=done, total=of)


@contextlib.contextmanager
def fed(module: str, arguments: Iterable[str], given: Iterable[bytes], doing: str) -> Iterator[Telling]:
    """`python -m module` for as long as the block lasts, which reads to its end. Raises what making `given` raised."""
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = Console(stderr=True)
    errors: list[Exception] = []
    with (
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
        Progress(*shown, console=screen, transient=True, disable=not screen.is_terminal) as bar,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        feeding = threading.Thread(target=_feed, args=(process.stdin, given, errors), daemon=True)
        feeding.start()
        try:
            yield Telling(process.stdout, bar, bar.add_task(doing, total=None))
        except BaseException:
            process.kill()
            raise
        feeding.join()
    if errors:
        raise errors[0]


def _feed(pipe: IO[bytes], given: Iterable[bytes], errors: list[Exception]) -> None:
    try:
        with pipe:
            for line in given:
                pipe.write(line)
                pipe.flush()
    except BrokenPipeError:
        pass  # it says itself why it ended
    except Exception as error:
        errors.append(error)

"""What is seen of a round: TensorBoard scalars in the state directory, a progress bar, and a bounded report."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

LOG_EVERY_S: Final = 5.0
CURVE_POINTS: Final = 100
KEPT_BOARDS: Final = 100

logger = logging.getLogger(__name__)


class Board:
    """Scalars of one round, by step. `first_step`: what was told of it and later steps before, does not count.

    The newest `KEPT_BOARDS` rounds stay on the disk.
    """

    def __init__(self, directory: Path, number: int, first_step: int = 0) -> None:
        own = directory / f"round-{number:06d}"
        for older in sorted(path for path in directory.glob("round-*") if path != own)[: 1 - KEPT_BOARDS]:
            shutil.rmtree(older)
        self._writer = SummaryWriter(str(own), purge_step=first_step)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Bar:
    """A progress bar on a terminal; elsewhere a log line now and then."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done = title, total, done
        self._logged_at = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            columns = ("[bold]{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
            self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
            self._task = self._progress.add_task(title, total=total, completed=done, said="")

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self, metrics: Mapping[str, float]) -> None:
        self._done += 1
        shown = [f"{name} {metrics[name]:.3f}" for name in ("loss", "accuracy", "margin") if name in metrics]
        said = "  ".join(shown)
        if self._progress:
            self._progress.update(self._task, completed=self._done, said=said)
        elif time.monotonic() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = time.monotonic()
            logger.info("%s: %d/%d  %s", self._title, self._done, self._total, said)


def curve(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """At most `CURVE_POINTS` evenly spaced values of every metric, for the round's report."""
    stride = max(1, -(-len(history) // CURVE_POINTS))
    names = dict.fromkeys(name for metrics in history for name in metrics)
    return {
        name: [round(m[name], 6) for m in history[::stride] if math.isfinite(m.get(name, math.nan))] for name in names
    }


def finite(value: Any) -> Any:
    """The same with null in place of every number that is not finite, as JSON wants it."""
    if isinstance(value, Mapping):
        return {str(name): finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Clock:
    """How long each phase took. `seconds` is the round's own, so that a resumed round goes on counting."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._phase = ""
        self._since = time.monotonic()

    def enter(self, phase: str) -> None:
        """The time since the last call was the last phase's."""
        now = time.monotonic()
        if self._phase:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

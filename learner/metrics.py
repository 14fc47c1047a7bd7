"""What is seen of a round: TensorBoard scalars in the state directory, a progress bar, and a bounded report."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

LOG_EVERY_S: Final = 5.0
CURVE_POINTS: Final = 100

logger = logging.getLogger(__name__)


class Board:
    """Scalars of one round, by step."""

    def __init__(self, directory: Path, number: int) -> None:
        self._writer = SummaryWriter(str(directory / f"round-{number:06d}"))

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
    return {name: [round(m[name], 6) for m in history[::stride] if name in m] for name in names}

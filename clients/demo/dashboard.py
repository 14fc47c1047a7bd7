"""The live table of a run: a `rich` display on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from clients.demo.budget import Budget
from clients.demo.ledger import Ledger
from clients.demo.statistics import Figure

LINE_EVERY_S: Final = 10.0


class Dashboard:
    """Use it as a context manager; `phase`, `tick` and `refresh` may be called as often as one likes."""

    def __init__(self, console: Console, ledger: Ledger, budget: Budget, started: float | None = None) -> None:
        """`started`: when the run began, on the monotonic clock; now, if absent."""
        self._console = console
        self._ledger = ledger
        self._budget = budget
        self._started = time.monotonic() if started is None else started
        self._phase = "opening"
        self._phase_started = time.monotonic()
        self._done, self._of = 0, 0
        self._line_at = 0.0
        self.adapter = "base"
        self.loop = "idle"
        self.measured: dict[str, Figure] = {}
        """Measured figures by name, shown as they become known."""
        self.phases: dict[str, float] = {}
        """Seconds that each finished phase took."""
        self._live = (
            Live(console=console, get_renderable=self.table, refresh_per_second=4) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_phase()
        if self._live is not None:
            self._live.stop()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def phase(self, name: str) -> None:
        """A new part of the run begins."""
        self._end_phase()
        self._phase, self._phase_started = name, time.monotonic()
        self._done, self._of = 0, 0
        self._say(f"[{self.seconds:5.0f} s] {name}")

    def doing(self, what: str) -> None:
        """What exactly is being waited for."""
        if self.loop != what:
            self.loop = what
            self._say(f"[{self.seconds:5.0f} s] {what}")

    def tick(self, done: int, of: int) -> None:
        """Progress of the phase."""
        self._done, self._of = done, of
        self.refresh()

    def refresh(self) -> None:
        """Without a terminal: a line, if the last one is old."""
        if time.monotonic() - self._line_at >= LINE_EVERY_S:
            progress = f"{self._done}/{self._of}" if self._of else ""
            cells = (f"{name} {value}" for name, value in self.rows())
            self._say(" · ".join([f"[{self.seconds:5.0f} s] {self._phase} {progress}".rstrip(), *cells]))

    def say(self, message: str) -> None:
        """A line that stays."""
        self._console.print(message, highlight=False)

    def rows(self) -> list[tuple[str, str]]:
        """What the table shows."""
        ledger, budget = self._ledger, self._budget
        return [
            ("hallucination", f"{_percent(ledger.hallucination)}{self._measured('hallucination')}"),
            ("coverage", f"{_percent(ledger.coverage)}{self._measured('coverage')}"),
            ("skills", self._measured("skills").strip() or "-"),
            ("signals", f"{ledger.signals} of {budget.total}{' (users rate)' if budget.is_open else ''}"),
            ("in service", self.adapter),
            ("loop", self.loop),
            ("requests", f"{ledger.requests} ({ledger.failed} failed)"),
        ]

    def table(self) -> RenderableType:
        """The display."""
        table = Table(show_header=False, title=f"Plumbline demo · {self.seconds:.0f} s · {self._phase}", min_width=72)
        for name, value in self.rows():
            table.add_row(name, value)
        bar = ProgressBar(total=self._of or None, completed=self._done, width=72, pulse=not self._of)
        return Group(table, bar)

    def _measured(self, what: str) -> str:
        found = [
            f"{name.removeprefix(what).strip()} {_percent(one.value)}"
            for name, one in self.measured.items()
            if name.startswith(what)
        ]
        return f"  (measured: {', '.join(found)})" if found else ""

    def _end_phase(self) -> None:
        now = time.monotonic()
        self.phases[self._phase] = self.phases.get(self._phase, 0.0) + now - self._phase_started
        self._phase_started = now

    def _say(self, line: str) -> None:
        if self._live is None:
            self._console.print(line, highlight=False, soft_wrap=True)
            self._line_at = time.monotonic()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

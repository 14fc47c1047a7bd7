"""What the experiments of `benchmarks.purposes` have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

from benchmarks._study import Learned, Learning, Quality, Recipe, Study, people
from clients.demo.measure import Tick
from clients.demo.settings import LEARNER
from clients.demo.statistics import Figure

ONE_PASS: Final[dict[str, Any]] = LEARNER | {"batch_groups": 16, "learning_rate": 2e-3, "epochs": 1}
"""The demo's objectives, as `benchmarks.alignment` has them."""
CROWD: Final = "crowd"
"""The alias whose people several experiments listen to."""
CROWD_SEED: Final = 6
CROWD_SIGNALS: Final = {False: 400, True: 250}
SMALL_STEPS: Final[dict[str, Any]] = LEARNER | {"batch_groups": 8, "learning_rate": 5e-4, "epochs": 3}


@dataclass(frozen=True, slots=True)
class Lab:
    """What an experiment works with. `doing` opens a line of the progress display."""

    study: Study
    learning: Learning
    doing: Callable[[str], Tick]
    quick: bool
    heard: set[str]
    """Crowds that have given their signals."""

    async def crowd(self) -> None:
        """`CROWD` has given its signals when this returns."""
        if CROWD not in self.heard:
            signals = CROWD_SIGNALS[self.quick]
            await self.study.collect(CROWD, people(CROWD_SEED), signals, self.doing("signals"))
            self.heard.add(CROWD)

    async def learn(self, alias: str, recipe: Recipe, state: str = "") -> Learned:
        """Recipes that do other things to the signals want another `state`, which holds them."""
        self.doing(recipe.name)
        return await asyncio.to_thread(self.learning, alias, recipe, state or f"learner-{alias}")

    async def measure(self, name: str, model: str) -> Quality:
        return await self.study.measure(model, self.doing(f"{name}: measured"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """An experiment's table and its part of the result line."""

    table: Table
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Purpose:
    """An experiment: the aliases it needs with the settings that they alone have, and the targets of its figures."""

    name: str
    aliases: Mapping[str, Mapping[str, Any]]
    run: Callable[[Lab], Awaitable[Outcome]]
    targets: Mapping[str, tuple[str, float]] = field(default_factory=dict)


def shown(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    made = Table(title=title)
    for column in columns:
        made.add_column(column)
    for row in rows:
        made.add_row(*row)
    return made

"""Rounds without end: does the learner follow people's taste and the world, and forget nothing on the way?

    python -m benchmarks.continual [--quick] [--arms ours]

The demo's users (24; a tenth of what they say is a slip) chat with one alias for each arm on a real engine, round after
round. At first they like long answers. From round 5 on they like short ones. From round 9 on half of the scenes hold a
shape that the model has never seen: a triangle that stands on its tip. The model takes half of them for circles and one
in five for a triangle. Where no answer shown names it rightly, people type what they see in half of the cases (briefly,
and with their slips), and judge as always in the others. The shape is new, its name is not: a word whose tokens this
small model has never uttered (a cross, say) is not learned from a few dozen corrections.

- `ours`: each round starts from the active adapter, with new signals and a replay (the newest groups and a sample of
  the older ones).
- `from_scratch`: each round starts from the base model, with all signals ever given.
- `no_replay`: each round starts from the active adapter, with new signals alone.

A round is ended by its signals (choices, ties, thumbs, corrections); the adapter is probed and gated by the server, and
promoted by an operator where the gate let it pass. What is served after it is measured through the server, of the
adapter alone (one candidate, temperature 1). Rounds -2 to 0 are the opening: the base model invents in half of its
answers, and it takes the demo's three rounds to have an adapter that is worth serving. They are in the table; what is
said of every served round is said from the adapter of round 0 on.

- `adapted_style_*`, `adapted_shape_*`: signals given after the change (ties too) until .8 of the answers are short, or
  .8 of the new triangles rightly named. Four in five: people who err one time in ten can hardly ask for more.
  null: never.
- `hallucination_max_*`, `skills_drop_max_*`, `coverage_min_*`, `kl_max_*`: over everything served from round 0 on, on
  scenes without the new shape, so that rounds can be compared; `tilted_hallucination_*`: on scenes with it, at the end.
- `*_final`: after the last round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from benchmarks._continual import (
    ARMS,
    OURS,
    Arm,
    Installation,
    Said,
    Served,
    Sizes,
    open_installation,
    start_learning,
)
from benchmarks._continual_plot import draw
from benchmarks._continual_world import Timeline, adapted_within
from clients.demo.statistics import Figure
from clients.stack import interrupted_by_signals
from server.wire.base import BASE

FULL: Final = Sizes(
    timeline=Timeline(opening=3, rounds=12, taste_changes=5, shape_appears=9),
    opening_signals=80,
    round_signals=66,
    best_of=8,
    descriptions=150,
    tilted=60,
    skills=100,
)
QUICK: Final = Sizes(
    timeline=Timeline(opening=3, rounds=5, taste_changes=2, shape_appears=4),
    opening_signals=80,
    round_signals=66,
    best_of=8,
    descriptions=100,
    tilted=40,
    skills=60,
)
ADAPTED: Final = 0.8
TARGETS: Final = {
    "adapted_style": ("<=", 200),
    "adapted_shape": ("<=", 200),
    "hallucination_max": ("<=", 0.07),
    "skills_drop_max": ("<=", 0.03),
}
KL_BOUND: Final = 1.0
"""The gate's, nats a token."""

Found = dict[str, list[Served]]


async def run(installation: Installation, arms: Sequence[Arm], progress: Progress) -> tuple[Said, Found]:
    """(what the base model says, the rounds of each arm). One arm after another: no one waits for another's round."""
    base = await installation.measure(BASE, tilted=True)
    found: Found = {}
    async with start_learning(installation.stack) as learning:
        for arm in arms:
            task = progress.add_task(arm.name, total=len(installation.sizes.timeline.numbers))

            def tell(one: Served, name: str = arm.name, task: TaskID = task) -> None:
                progress.advance(task)
                progress.console.print(" ".join(row(name, one)), highlight=False)

            found[arm.name] = await installation.live(arm, learning, tell)
    return base, found


def summarise(found: Mapping[str, Sequence[Served]], timeline: Timeline) -> dict[str, float | int | None]:
    """The result line's figures, for each arm."""
    figures: dict[str, float | int | None] = {"rounds": timeline.rounds}
    for name, every in found.items():
        served = [one for one in every if one.number >= 0]
        signals = [one.signals for one in served]
        short = [one.said.short.value for one in served]
        named = [one.said.tilted.value if one.said.tilted else 0.0 for one in served]
        taste, kind = timeline.taste_changes - 1, timeline.shape_appears - 1
        last = served[-1].said
        assert last.tilted is not None
        assert last.tilted_hallucination is not None
        figures |= {
            f"adapted_style_{name}": adapted_within(signals[taste:], short[taste:], ADAPTED),
            f"adapted_shape_{name}": adapted_within(signals[kind:], named[kind:], ADAPTED),
            f"hallucination_max_{name}": max(one.said.hallucination.value for one in served),
            f"hallucination_final_{name}": last.hallucination.value,
            f"tilted_hallucination_{name}": last.tilted_hallucination.value,
            f"skills_drop_max_{name}": max(one.said.skills_drop.value for one in served),
            f"coverage_min_{name}": min(one.said.coverage.value for one in served),
            f"kl_max_{name}": max(one.kl for one in served),
            f"short_final_{name}": last.short.value,
            f"shape_final_{name}": last.tilted.value,
            f"promoted_{name}": sum(one.outcome == "promoted" for one in served),
            f"signals_{name}": signals[-1],
        }
    return figures


def table(base: Said, found: Mapping[str, Sequence[Served]]) -> Table:
    shown = Table(title="what is served after each round, with 95% intervals")
    columns = ("arm", "round", "signals", "invents", "named", "short", "words", "skills drop", "new shape", "KL", "")
    for column in columns:
        shown.add_column(column)
    shown.add_row("base", "", "0", *cells(base), "", "")
    for name, served in found.items():
        shown.add_section()
        for one in served:
            shown.add_row(*row(name, one))
    return shown


def row(arm: str, one: Served) -> list[str]:
    kept = "" if one.outcome == "promoted" else one.outcome
    return [arm, str(one.number), str(one.signals), *cells(one.said), f"{one.kl:.3f}", kept]


def cells(said: Said) -> list[str]:
    return [
        interval(said.hallucination),
        f"{said.coverage.value:.3f}",
        interval(said.short),
        f"{said.words:.1f}",
        f"{said.skills_drop.value:.3f}",
        interval(said.tilted) if said.tilted else "",
    ]


def interval(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"


def goals(figures: Mapping[str, float | int | None]) -> Table:
    shown = Table("figure", "target", "reached")
    for name, (relation, target) in TARGETS.items():
        reached = figures[f"{name}_{OURS.name}"]
        shown.add_row(f"{name}_{OURS.name}", f"{relation} {target}", "never" if reached is None else f"{reached:.3g}")
    shown.add_row(f"kl_max_{OURS.name}", f"<= {KL_BOUND}", f"{figures[f'kl_max_{OURS.name}']:.3f}")
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.continual", description="Twelve rounds in which taste and world change."
    )
    parser.add_argument("--quick", action="store_true", help="five rounds; the changes come at 2 and 4")
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], help="these alone")
    parser.add_argument("--out", type=Path, default=Path("docs/continual.svg"), help="where the plot goes")
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    arms = [arm for arm in ARMS if not args.arms or arm.name in args.arms]
    started = time.monotonic()
    with interrupted_by_signals(), open_installation(arms, sizes) as installation, Progress() as progress:
        base, found = asyncio.run(run(installation, arms, progress))
    figures = summarise(found, sizes.timeline)
    console = Console(width=160)
    console.print(table(base, found))
    if OURS.name in found:
        console.print(goals(figures))
    draw(args.out, found, sizes.timeline, {"hallucination": 0.07, "short": ADAPTED, "tilted": ADAPTED})
    figures |= {"minutes": (time.monotonic() - started) / 60}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    print("RESULT", json.dumps({"quick": args.quick, **rounded}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Methods at what they are for: one small experiment each, beside what is done without the method.

    python -m benchmarks.purposes [--quick] [--only NAME ...]

The demo's model on a real engine, with an alias for each crowd; people chat, the real learner learns from what they
said (each round from the base model), and adapters are asked through the server. Each experiment's own module says what
it does and what its figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks._purposes import Lab, Purpose
from benchmarks._purposes_active import ACTIVE
from benchmarks._purposes_image import IMAGE
from benchmarks._purposes_mask import MASK
from benchmarks._purposes_no_signal import NO_SIGNAL
from benchmarks._purposes_unlearn import UNLEARN
from benchmarks._purposes_unreliable import UNRELIABLE
from benchmarks._study import Learning, Study, open_study
from clients.demo.measure import Tick
from clients.stack import interrupted_by_signals

PURPOSES: Final[Mapping[str, Purpose]] = {
    one.name: one for one in (UNLEARN, UNRELIABLE, IMAGE, NO_SIGNAL, MASK, ACTIVE)
}
DESCRIPTIONS: Final = {False: 400, True: 200}
SKILLS: Final = {False: 400, True: 200}


async def run(
    study: Study, learning: Learning, purposes: Sequence[Purpose], progress: Progress, *, quick: bool
) -> dict[str, float]:
    """The figures of all experiments; each one's table is printed when it is done."""
    task = progress.add_task("", total=None)
    figures: dict[str, float] = {}
    heard: set[str] = set()
    for purpose in purposes:

        def doing(what: str, of: str = purpose.name) -> Tick:
            progress.reset(task, description=f"{of}: {what}")
            return lambda done, total: progress.update(task, completed=done, total=total)

        started = time.monotonic()
        outcome = await purpose.run(Lab(study, learning, doing, quick, heard))
        progress.console.print(outcome.table)
        figures |= outcome.figures
        figures[f"seconds_{purpose.name}"] = time.monotonic() - started
    return figures


def goals(purposes: Sequence[Purpose], figures: Mapping[str, float]) -> Table:
    shown = Table("figure", "target", "reached")
    for purpose in purposes:
        for name, (relation, target) in purpose.targets.items():
            shown.add_row(name, f"{relation} {target}", f"{figures[name]:.3f}")
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.purposes", description="Methods at what they are for, beside what is done without."
    )
    parser.add_argument("--quick", action="store_true", help="fewer signals and questions")
    parser.add_argument("--only", nargs="+", choices=list(PURPOSES), metavar="NAME", help=", ".join(PURPOSES))
    args = parser.parse_args()
    purposes = [one for name, one in PURPOSES.items() if not args.only or name in args.only]
    own = {alias: settings for one in purposes for alias, settings in one.aliases.items()}
    with (
        interrupted_by_signals(),
        open_study(list(own), DESCRIPTIONS[args.quick], SKILLS[args.quick], own) as study,
        study.learning() as learning,
        Progress() as progress,
    ):
        figures = asyncio.run(run(study, learning, purposes, progress, quick=args.quick))
    Console().print(goals(purposes, figures))
    rounded = {name: round(value, 4) if math.isfinite(value) else None for name, value in figures.items()}
    print("RESULT", json.dumps({"quick": args.quick, **rounded}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

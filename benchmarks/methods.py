"""Every method of the field on the same signals: hallucination, coverage, skills, KL and seconds, beside plain DPO.

    python -m benchmarks.methods [--quick] [--seeds 0 1 2] [--only NAME ...]

Each seed is another crowd of the demo's users (a tenth of what they say is a slip), who chat with the base model on a
real engine until they have given 300 signals; a second crowd gives thumbs alone, and a reward model is trained on the
first one's choices. From then on nobody says anything: each method (`benchmarks._methods_table`) learns from those
signals in one round of the real learner, from the base model, and its adapter is probed, gated and asked through the
server, many requests at a time, for the same descriptions (at temperature 1) and skills (greedily). Settings are
those that did best on another crowd (seed 9), of a few for each method.

The peer is plain DPO, in the same run. Values are means over the seeds, intervals those of all descriptions together.

- `methods_total`: methods, without compositions.
- `methods_improving`: those whose hallucination's upper 95% bound lies below the base model's, with coverage of .95.
- `best_vs_dpo`: the least hallucination of anything with that coverage / plain DPO's.
- KL: nats a token, of the adapter to the base, on the answers learned from, as the learner measures it at the end.
- seconds: of the round, from its plan to the upload, while the last method's adapter is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks._methods_plot import draw
from benchmarks._methods_table import COMPOSITIONS, DPO, METHODS, Method
from benchmarks._study import Learned, Learning, Quality, Recipe, Sizes, Study, crowd_name, open_study, people
from clients.demo.statistics import Figure, wilson
from clients.stack import StackError, interrupted_by_signals
from server.wire.base import BASE

ENOUGH_COVERAGE: Final = 0.95
TARGETS: Final = {"methods_total": 45}
RESULTS: Final = Path("docs/methods-results.json")
PLOT: Final = Path("docs/methods.svg")


FULL: Final = Sizes(seeds=(0, 1, 2), signals=300, descriptions=200, skills=150)
QUICK: Final = Sizes(seeds=(0,), signals=200, descriptions=120, skills=80)


@dataclass(frozen=True, slots=True)
class Run:
    """One method on one crowd."""

    quality: Quality
    kl: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """One method over all crowds, with 95% intervals."""

    hallucination: Figure
    coverage: Figure
    skills_drop: Figure
    kl: float
    seconds: float

    @property
    def has_coverage(self) -> bool:
        return self.coverage.value >= ENOUGH_COVERAGE

    def versus(self, dpo: Result) -> str:
        """By hallucination: `same` where the intervals meet."""
        if self.hallucination.high < dpo.hallucination.low:
            return "better"
        return "worse" if self.hallucination.low > dpo.hallucination.high else "same"


@dataclass(slots=True)
class Found:
    """By method; `base` is among the runs. Of a method that was refused there is the reason instead."""

    runs: dict[str, list[Run]]
    refused: dict[str, str]


async def run(
    study: Study, sizes: Sizes, methods: Sequence[Method], progress: Progress, keep: Callable[[Found], None]
) -> Found:
    """`keep` is told what there is after each seed."""
    found = Found({}, {})
    steps = progress.add_task("", total=1 + len(sizes.seeds) * (2 + len(methods)))
    inner = progress.add_task("", total=None)

    def tick(done: int, of: int) -> None:
        progress.update(inner, completed=done, total=of)

    def doing(what: str) -> None:
        progress.update(steps, description=what, advance=1)

    doing("base model")
    found.runs[BASE] = [Run(await study.measure(BASE, tick), 0.0, 0.0)]
    for seed in sizes.seeds:
        for thumbs_only in (False, True):
            doing(f"seed {seed}: signals")
            crowd = people(seed, thumbs_only=thumbs_only)
            await study.collect(crowd_name(seed, thumbs_only), crowd, sizes.signals, tick)

        async def ask(name: str, learned: Learned, seed: int = seed) -> None:
            quality = await study.measure(learned.adapter, tick)
            one = Run(quality, learned.detail["after"]["kl"], learned.detail["seconds"])
            found.runs.setdefault(name, []).append(one)
            result = combined([one], sizes.descriptions)
            progress.console.print(f"{name}, seed {seed}: {' '.join(cells(result))}", highlight=False)

        # The next method learns while the last one's adapter is asked.
        asking: asyncio.Task[None] | None = None
        with study.learning() as learning:
            for method in methods:
                doing(f"seed {seed}: {method.name}")
                try:
                    learned = await asyncio.to_thread(_learn, learning, seed, method.recipe)
                except StackError as error:
                    found.refused[method.name] = str(error).splitlines()[-1]
                    progress.console.print(f"{method.name}, seed {seed}: {error}", highlight=False)
                    continue
                if asking is not None:
                    await asking
                asking = asyncio.create_task(ask(method.name, learned))
            if asking is not None:
                await asking
        keep(found)
    return found


def _learn(learning: Learning, seed: int, recipe: Recipe) -> Learned:
    crowd = crowd_name(seed, recipe.thumbs_only)
    return learning(crowd, recipe, f"{crowd}-judged" if recipe.reward_model else crowd)


def all_combined(found: Found, sizes: Sizes) -> dict[str, Result]:
    return {name: combined(runs, sizes.descriptions) for name, runs in found.runs.items()}


def combined(runs: Sequence[Run], descriptions: int) -> Result:
    """`descriptions` of each run."""
    share = mean([one.quality.hallucination.value for one in runs])
    answers = descriptions * len(runs)
    return Result(
        wilson(round(share * answers), answers),
        narrowed([one.quality.coverage for one in runs]),
        narrowed([one.quality.skills_drop for one in runs]),
        mean([one.kl for one in runs]),
        mean([one.seconds for one in runs]),
    )


def narrowed(figures: Sequence[Figure]) -> Figure:
    """The mean of independent figures: half the width of its interval is √Σ(halves²) / n."""
    value = mean([one.value for one in figures])
    half = math.sqrt(sum(((one.high - one.low) / 2) ** 2 for one in figures)) / len(figures)
    return Figure(value, value - half, value + half)


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def summarise(results: Mapping[str, Result], refused: Mapping[str, str]) -> dict[str, float]:
    """The result line's figures. What was refused is a method that does not improve."""
    base, dpo = results[BASE], results[DPO]
    methods = (results.keys() | refused.keys()) - {BASE} - {one.name for one in COMPOSITIONS}
    improving = [name for name in methods - refused.keys() if improves(results[name], base)]
    enough = [one.hallucination.value for name, one in results.items() if name != BASE and one.has_coverage]
    return {
        "methods_total": len(methods),
        "methods_improving": len(improving),
        "hallucination_base": base.hallucination.value,
        "hallucination_dpo": dpo.hallucination.value,
        "coverage_dpo": dpo.coverage.value,
        "best_vs_dpo": min(enough, default=math.nan) / dpo.hallucination.value,
        "better_than_dpo": sum(one.versus(dpo) == "better" and one.has_coverage for one in results.values()),
    }


def improves(result: Result, base: Result) -> bool:
    return result.hallucination.high < base.hallucination.value and result.has_coverage


def table(results: Mapping[str, Result], refused: Mapping[str, str]) -> Table:
    shown = Table(title="one round on the same signals, by hallucination; 95% intervals")
    for column in ("method", "invents", "objects named", "skills drop", "KL", "seconds", "against DPO", "improves"):
        shown.add_column(column)
    base, dpo = results[BASE], results[DPO]
    for name, one in sorted(results.items(), key=lambda item: item[1].hallucination.value):
        shown.add_row(name, *cells(one), one.versus(dpo), "yes" if improves(one, base) else "no")
    for name, reason in refused.items():
        shown.add_row(name, reason)
    return shown


def cells(result: Result) -> list[str]:
    invents = result.hallucination
    return [
        f"{invents.value:.3f} ({invents.low:.3f}-{invents.high:.3f})",
        f"{result.coverage.value:.3f}",
        f"{result.skills_drop.value:+.3f}",
        f"{result.kl:.3f}",
        f"{result.seconds:.1f}",
    ]


def written(results: Mapping[str, Result]) -> dict[str, dict[str, Any]]:
    """What the page of methods shows (`deploy/methods.py`), the least hallucination first."""

    def figure(one: Figure) -> list[float]:
        return [round(one.value, 4), *one.rounded()]

    base, dpo = results[BASE], results[DPO]
    return {
        name: {
            "hallucination": figure(one.hallucination),
            "coverage": figure(one.coverage),
            "skills_drop": figure(one.skills_drop),
            "kl": round(one.kl, 4),
            "seconds": round(one.seconds, 1),
            "vs_dpo": one.versus(dpo) if name not in {BASE, DPO} else "",
            "improves": improves(one, base),
        }
        for name, one in sorted(results.items(), key=lambda item: item[1].hallucination.value)
    }


def read_back(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Result]:
    """What `written` wrote."""

    def figure(row: Mapping[str, Any], name: str) -> Figure:
        return Figure(*row[name])

    return {
        name: Result(
            figure(row, "hallucination"), figure(row, "coverage"), figure(row, "skills_drop"), row["kl"], row["seconds"]
        )
        for name, row in rows.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods", description="Every method on the same signals, beside plain DPO."
    )
    parser.add_argument("--quick", action="store_true", help="one seed and 200 signals: a quarter of an hour")
    parser.add_argument("--seeds", type=int, nargs="+", help="these crowds alone")
    names = [method.name for method in METHODS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"these (and {DPO}) alone")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"keep the result in {RESULTS} and {PLOT}; of --only, beside what stands there",
    )
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    if args.seeds:
        sizes = replace(sizes, seeds=tuple(args.seeds))
    methods = [one for one in METHODS if not args.only or one.name in {DPO, *args.only}]
    started = time.monotonic()

    def keep(found: Found) -> None:
        results = all_combined(found, sizes)
        if args.write and args.only:
            again = {name: one for name, one in results.items() if name in args.only}
            results = read_back(json.loads(RESULTS.read_text())) | again
        if args.write and DPO in results:
            RESULTS.write_text(json.dumps(written(results), indent=1) + "\n")
            draw(PLOT, results, DPO, {one.name for one in COMPOSITIONS})

    with (
        interrupted_by_signals(),
        open_study(sizes.crowds, sizes.descriptions, sizes.skills) as study,
        Progress() as progress,
    ):
        found = asyncio.run(run(study, sizes, methods, progress, keep))
    results = all_combined(found, sizes)
    console = Console(width=140)
    console.print(table(results, found.refused))
    figures = summarise(results, found.refused) | {"minutes": (time.monotonic() - started) / 60}
    goals = Table("figure", "target", "reached")
    goals.add_row("methods_total", f">= {TARGETS['methods_total']}", f"{figures['methods_total']}")
    goals.add_row("methods_improving", f"= {figures['methods_total']}", f"{figures['methods_improving']}")
    console.print(goals)
    print("RESULT", json.dumps({"quick": args.quick} | {name: round(value, 4) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

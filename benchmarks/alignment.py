"""What people's signals make of a model: hallucination, coverage and skills, for our recipes and for TRL's online DPO.

    python -m benchmarks.alignment [--quick] [--seeds 0 1 2 3 4]

Each seed is another crowd of the demo's users (a tenth of what they say is a slip), who chat with the base model on a
real engine until they have given 300 signals; a second crowd gives thumbs alone. Every recipe learns from the base
model in one round, in a process of its own (GRPO from all eight answers that each person was offered, by a reward
model of the same people's choices); learning rates and passes are those that did best on another crowd (seed 9); every
adapter is asked through the server for the same descriptions (at temperature 1) and skills (greedily). TRL's online
DPO gets as many labels from the same kind of users, on the same scenes, about answers that it samples itself
(`benchmarks._trl_online`).

- `hallucination_*`, `coverage_*`, `skills_drop_*`: over all seeds, of each recipe.
- `quality_vs_trl`: share of the seeds on which DPO's hallucination is no higher and its coverage no lower than TRL's,
  within the 95% intervals.
- `wall_clock_vs_trl`: seconds of our round, from its plan to the upload, / of TRL's `train()`; median over the seeds.
  TRL samples its answers in that time; ours were given to people anyway. Starting Python and loading the model is left
  out of both: our learner does it once a day.
- `process_vs_trl`: the same from the command to the adapter, each in a new process.
- `kto_thumbs_halves`: 1 where thumbs alone halve the hallucination.
- `lcpo_retained`, `dpo_retained`: where three in ten labels are wrong, the fall of the hallucination with LCPO, and
  without it, / its fall with the labels as people meant them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks._study import Quality, Recipe, Sizes, Study, crowd_name, open_study, people
from clients.demo.measure import Tick
from clients.demo.settings import LEARNER
from clients.stack import StackError
from learner.publish import FILES
from server.wire.base import BASE

ONE_PASS = LEARNER | {"batch_groups": 16, "learning_rate": 2e-3, "epochs": 1}
REWARDED = LEARNER | {
    "objectives": {"grpo": 1.0},
    # One round of answers that the base gave: within PPO's usual .2 of it the policy could hardly move.
    "options": {"grpo": {"epsilon": 0.8, "epsilon_high": 4.0}},
    "batch_groups": 16,
    "learning_rate": 1e-3,
    "epochs": 1,
}
SMALL_STEPS = LEARNER | {"batch_groups": 8, "learning_rate": 5e-4, "epochs": 3}
FOR_NOISE = SMALL_STEPS | {"learning_rate": 1e-3, "epochs": 5}
LCPO = {"weighting": {"pairs": "lcpo", "unpaired": "lcpo"}}
TURNED = 0.25
"""Of what people say, a tenth of which is a slip: so that three in ten labels are wrong."""

DPO = Recipe("dpo", ONE_PASS)
KTO = Recipe("kto_thumbs", SMALL_STEPS, thumbs_only=True)
GRPO = Recipe("grpo", REWARDED, reward_model=True)
DPO_FLIPPED = Recipe("dpo_flipped", FOR_NOISE, flips=TURNED)
LCPO_FLIPPED = Recipe("lcpo_flipped", FOR_NOISE | LCPO, flips=TURNED)
RECIPES = (DPO, KTO, GRPO, DPO_FLIPPED, LCPO_FLIPPED)
TRL = "trl_online_dpo"
TARGETS = {
    "quality_vs_trl": (">=", 1),
    "wall_clock_vs_trl": ("<=", 0.4),
    "kto_thumbs_halves": ("=", 1),
    "lcpo_retained": (">=", 0.9),
}


FULL = Sizes(seeds=(0, 1, 2, 3, 4), signals=300, descriptions=400, skills=400)
QUICK = Sizes(seeds=(0,), signals=150, descriptions=200, skills=200)


Qualities = dict[str, list[Quality]]
"""Of each model, one for each seed."""


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds."""

    learning: float
    process: float


Times = dict[str, list[Took]]


async def run(study: Study, sizes: Sizes, progress: Progress) -> tuple[Qualities, Times]:
    """(what each model says, what its learning took), in the order of the seeds."""
    found: Qualities = {}
    seconds: Times = {}
    steps = progress.add_task("", total=len(sizes.seeds) * (len(RECIPES) + 3) + 1)
    inner = progress.add_task("", total=None)

    def doing(what: str) -> Tick:
        progress.update(steps, description=what, advance=1)
        return lambda done, of: progress.update(inner, completed=done, total=of)

    found["base"] = [await study.measure(BASE, doing("base model"))]
    for seed in sizes.seeds:
        for thumbs_only in (False, True):
            tick = doing(f"seed {seed}: signals")
            crowd = people(seed, thumbs_only=thumbs_only)
            await study.collect(crowd_name(seed, thumbs_only), crowd, sizes.signals, tick)
        for recipe in RECIPES:
            tick = doing(f"seed {seed}: {recipe.name}")
            learned = await asyncio.to_thread(study.learn, crowd_name(seed, recipe.thumbs_only), recipe)
            found.setdefault(recipe.name, []).append(await study.measure(learned.adapter, tick))
            seconds.setdefault(recipe.name, []).append(Took(learned.detail["seconds"], learned.seconds))
        tick = doing(f"seed {seed}: {TRL}")
        files, taken = await asyncio.to_thread(by_trl, seed, sizes.signals)
        found.setdefault(TRL, []).append(await study.measure(study.adopt(crowd_name(seed), files), tick))
        seconds.setdefault(TRL, []).append(taken)
    return found, seconds


def by_trl(seed: int, labels: int) -> tuple[dict[str, bytes], Took]:
    """TRL's adapter, and what it took."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "benchmarks._trl_online", str(seed), str(labels), out]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise StackError(f"TRL failed:\n{done.stderr[-2000:]}")
        files = {name: (Path(out) / name).read_bytes() for name in FILES}
        return files, Took(float(done.stdout.splitlines()[-1]), seconds)


def summarise(found: Qualities, seconds: Times) -> dict[str, float]:
    """The result line's figures."""
    figures: dict[str, float] = {}
    for name, qualities in found.items():
        figures[f"hallucination_{name}"] = mean(one.hallucination.value for one in qualities)
        figures[f"coverage_{name}"] = mean(one.coverage.value for one in qualities)
        figures[f"skills_drop_{name}"] = mean(one.skills_drop.value for one in qualities)
    pairs = list(zip(found[DPO.name], found[TRL], strict=True))
    figures["quality_vs_trl"] = mean(is_no_worse(ours, theirs) for ours, theirs in pairs)
    taken = list(zip(seconds[DPO.name], seconds[TRL], strict=True))
    figures["wall_clock_vs_trl"] = statistics.median(ours.learning / theirs.learning for ours, theirs in taken)
    figures["process_vs_trl"] = statistics.median(ours.process / theirs.process for ours, theirs in taken)
    base = figures["hallucination_base"]
    gain = base - figures[f"hallucination_{DPO.name}"]
    for name, recipe in (("lcpo_retained", LCPO_FLIPPED), ("dpo_retained", DPO_FLIPPED)):
        figures[name] = (base - figures[f"hallucination_{recipe.name}"]) / gain if gain > 0 else math.nan
    halved = figures[f"hallucination_{KTO.name}"] <= base / 2
    return figures | {"kto_thumbs_halves": float(halved)}


def is_no_worse(ours: Quality, theirs: Quality) -> bool:
    """Hallucination no higher, coverage no lower, as far as the intervals can tell."""
    invents_no_more = ours.hallucination.low <= theirs.hallucination.high
    return invents_no_more and ours.coverage.high >= theirs.coverage.low


def mean(values: Iterable[float]) -> float:
    return statistics.mean(map(float, values))


def table(found: Qualities, seconds: Times, sizes: Sizes) -> Table:
    shown = Table(title=f"{sizes.signals} signals, seeds {', '.join(map(str, sizes.seeds))}: means (least to most)")
    for column in ("model", "hallucination", "coverage", "skills drop", "seconds"):
        shown.add_column(column)
    for name, qualities in found.items():
        spans = [
            span([one.hallucination.value for one in qualities]),
            span([one.coverage.value for one in qualities]),
            span([one.skills_drop.value for one in qualities]),
        ]
        shown.add_row(name, *spans, f"{mean(one.learning for one in seconds[name]):.0f}" if name in seconds else "")
    return shown


def span(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" + (f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else "")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment", description="What people's signals make of a model, beside TRL."
    )
    parser.add_argument("--quick", action="store_true", help="one seed and half the signals: five minutes")
    parser.add_argument("--seeds", type=int, nargs="+", help="these crowds alone")
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    if args.seeds:
        sizes = replace(sizes, seeds=tuple(args.seeds))
    with open_study(sizes.crowds, sizes.descriptions, sizes.skills) as study, Progress() as progress:
        found, seconds = asyncio.run(run(study, sizes, progress))
    figures = summarise(found, seconds)
    console = Console()
    console.print(table(found, seconds, sizes))
    goals = Table("figure", "target", "reached")
    for name, (relation, target) in TARGETS.items():
        goals.add_row(name, f"{relation} {target}", f"{figures[name]:.3f}")
    console.print(goals)
    print("RESULT", json.dumps({name: round(value, 4) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

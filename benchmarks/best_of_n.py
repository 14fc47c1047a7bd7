"""What choosing among n answers gains, where the scorer is wrong, and what it costs: on the real engine.

    python -m benchmarks.best_of_n [--quick] [--plot FILE]

The shapes model describes scenes that it was not trained on, on real vLLM, through the service. The oracle is the
scene's truth; the service's scorer (a reward model on HTTP, `benchmarks._best_of_n_scorer`) sees it through noise and
has a blind spot: answers that name an object twice get the top score. The model makes such answers by itself; at
`TEMPERATURE` they are about 2%. The run is invalid, and says so, unless the blind spot bites: the highest score of 64
must be a right answer less often, by .1 at least, than the highest of 8.

Part `pool`: 64 answers to each prompt, judged by the service; what n of them would have given is resampled, with the
exact probabilities of the service's own selection. Strategies, calibration and waves have the service's defaults;
`SEPARATION` of the scorer, `TEMPERATURE`, `AUTO` and `EARLY` were set on other scenes (`--development`).

- `right_answers`: their share by strategy and n, with a 95% bootstrap interval over prompts.
- `pessimistic_64_vs_8`: the ratio of two of them.
- `auto_gap_closed`: (auto − fixed_m) / (fixed_8 − fixed_m), where m is how many candidates `auto` makes in the mean;
  between whole numbers fixed_m is interpolated. All by the default strategy (argmax), through the server's own waves
  with the pool in the engine's place. With the blind spot eight are no better than m: argmax has its best behind it,
  and there is no gap to close. So the figure is of the same answers scored without the blind spot (`sound_...`);
  beside it stand the qualities with it, and the lower 95% ends of what `auto` is ahead.
- `auto_served_quality`, `auto_served_candidates`: of requests that the service answered, blind spot and all.

Part `early`: each prompt twice with eight candidates and the same seeds, with early rejection and without.

- `early_reject_tokens_ratio`: generated tokens with it / without.
- `early_reject_quality_gain`: share of right answers with it minus without.

Part `latency`, one request at a time: the service's best of 8, with a judge (the same model on the same engine gives a
mark to each answer); optillm's best of 8, which rates by the same model too; and a plain script that asks the engine
for eight answers in one request and then our scorer for one mark after the other. Medians over rounds in which each
side has a scene of its own. optillm takes no images: it is asked in words alone, which spares it their tokens. Our
marks are held to a schema; optillm's model may say what it likes for 256 tokens, and this one does.

- `vs_optillm_latency`, `vs_naive_latency`: the service / them.
- `vs_optillm_brief_latency`: the same, as if optillm's model had said a number each time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from benchmarks import _best_of_n_scorer as noisy
from benchmarks import _best_of_n_sides as sides
from benchmarks._best_of_n_latency import Peers, Rounds, latency
from benchmarks._best_of_n_plot import draw
from benchmarks._best_of_n_pool import Adaptive, Floats, Pool, adaptive, interval, quality
from benchmarks._optillm import OptiLlm, install
from benchmarks._peer import NotInstalled
from clients.demo.language import Question, description_question, repeated_objects
from clients.demo.scenes import EVALUATION_SEEDS, USER_SEEDS
from clients.stack import HOST, free_port
from reward.selection import STRATEGIES
from server.config import AliasConfig

TEMPERATURE = 1.2
SIZES = (1, 2, 4, 8, 16, 32, 64)
SMALLEST_FALL = 0.1
PARTS = ("latency", "pool", "early")
TARGETS = {
    "pessimistic_64_vs_8": "≥ 1.0",
    "auto_gap_closed": "≥ .5",
    "early_reject_tokens_ratio": "≤ .75",
    "early_reject_quality_gain": "≥ -.01",
    "vs_optillm_latency": "≤ .4",
    "vs_naive_latency": "≤ .6",
}

Figures = dict[str, float]
Curves = dict[str, dict[int, Floats]]
"""By strategy and number of candidates: each prompt's chance of a right answer."""
Shares = dict[str, dict[int, tuple[float, float, float]]]
"""The same: mean over prompts, and its 95% interval."""
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and on which scenes."""

    seeds: range
    pool: int
    """Prompts."""
    auto_rounds: int
    early: int
    """Prompts, from the pool's last one on."""
    latency: Rounds


FULL = Plan(EVALUATION_SEEDS, pool=500, auto_rounds=16, early=600, latency=Rounds(40, 8))
QUICK = Plan(EVALUATION_SEEDS, pool=80, auto_rounds=16, early=80, latency=Rounds(10, 2))
DEVELOPMENT = Plan(USER_SEEDS[500_000:], pool=250, auto_rounds=16, early=250, latency=Rounds(10, 2))


async def all_of(
    items: Sequence[Item], concurrency: int, title: str, run: Callable[[Item], Awaitable[Found]]
) -> list[Found]:
    """What came of each, in order, so many at a time."""
    free = asyncio.Semaphore(concurrency)
    with Progress() as progress:
        bar = progress.add_task(title, total=len(items))

        async def one(item: Item) -> Found:
            async with free:
                found = await run(item)
            progress.advance(bar)
            return found

        return await asyncio.gather(*map(one, items))


def described(seeds: Iterable[int]) -> list[Question]:
    return [description_question(seed) for seed in seeds]


def right(asked: Sequence[Question], answers: Sequence[str]) -> Floats:
    pairs = zip(asked, answers, strict=True)
    return np.array([float(noisy.is_right(one.scene, text)) for one, text in pairs])


# --- part 1: the pool -------------------------------------------------------------------------------------


async def collect(session: aiohttp.ClientSession, url: str, asked: Sequence[Question]) -> Pool:
    """The most answers of each size, all of them judged by the service."""

    async def one(question: Question) -> tuple[Sequence[str], Sequence[float], Sequence[float]]:
        fields = {"best_of": SIZES[-1], "plumbline": {"explain": True}}
        return sides.scores_of(await sides.ask(session, url, noisy_body(question, **fields)))

    texts, scores, totals = zip(*await all_of(asked, 2, "pool", one), strict=True)
    pairs = zip(asked, texts, strict=True)
    is_right = [[noisy.is_right(question.scene, text) for text in of_prompt] for question, of_prompt in pairs]
    return Pool(texts, np.array(is_right), np.array(scores), np.array(totals))


def noisy_body(asked: Question, **fields: Any) -> dict[str, Any]:
    return sides.body(sides.NOISY, asked, temperature=TEMPERATURE, seed=asked.scene.seed, store=False, **fields)


def about_scorer(pool: Pool) -> Figures:
    pairs = zip(pool.scores.tolist(), pool.is_right.tolist(), strict=True)
    counted = [noisy.pairwise_accuracy(zip(scores, is_right, strict=True)) for scores, is_right in pairs]
    repeated = [bool(repeated_objects(text)) for of_prompt in pool.texts for text in of_prompt]
    return {
        "scorer_pairwise_accuracy": sum(won for won, _ in counted) / sum(count for _, count in counted),
        "blind_spot_share": statistics.fmean(repeated),
    }


def seen_soundly(pool: Pool, asked: Sequence[Question]) -> Pool:
    """The same answers, scored without the blind spot."""
    pairs = zip(asked, pool.texts, strict=True)
    scores = [[noisy.noisy_score(one.scene, text, is_blind=False) for text in of_prompt] for one, of_prompt in pairs]
    return Pool(pool.texts, pool.is_right, np.array(scores), np.array(scores))


def alias() -> AliasConfig:
    return AliasConfig.model_validate(sides.noisy_alias("http://127.0.0.1:1"))


def curves(pool: Pool) -> Curves:
    plan = [(name, size) for name in STRATEGIES for size in SIZES]
    found: Curves = {name: {} for name in STRATEGIES}
    for name, size in track(plan, description="selection"):
        found[name][size] = quality(pool, alias().selection.build(name), size)
    return found


def from_curves(found: Curves) -> Figures:
    cautious = found["pessimistic"]
    low, high = interval(len(cautious[8]), lambda drawn: cautious[64][drawn].mean() / cautious[8][drawn].mean())
    ratio = float(cautious[64].mean() / cautious[8].mean())
    highest = found["argmax"]
    return {
        "argmax_fall_8_to_64": float(highest[8].mean() - highest[64].mean()),
        "pessimistic_64_vs_8": ratio,
        "pessimistic_64_vs_8_low": low,
        "pessimistic_64_vs_8_high": high,
    }


def with_intervals(found: Curves) -> Shares:
    def one(values: Floats) -> tuple[float, float, float]:
        low, high = interval(len(values), lambda drawn: float(values[drawn].mean()))
        return round(float(values.mean()), 4), round(low, 4), round(high, 4)

    return {name: {size: one(values) for size, values in by_size.items()} for name, by_size in found.items()}


async def waves(pool: Pool, rounds: int) -> Adaptive:
    with Progress() as progress:
        bar = progress.add_task("waves", total=rounds)
        settings = alias()
        return await adaptive(pool, settings, settings.selection.build(), rounds, lambda: progress.advance(bar))


def from_waves(flawed: Adaptive, sound: Adaptive) -> Figures:
    everybody = np.arange(len(flawed.quality))
    low, high = interval(len(everybody), sound.gap_closed)
    same, eight = flawed.evenly(everybody)

    def ahead(drawn: NDArray[np.int64], which: int) -> float:
        return float(flawed.quality[drawn].mean()) - flawed.evenly(drawn)[which]

    return {
        "auto_candidates": float(flawed.candidates.mean()),
        "auto_quality": float(flawed.quality.mean()),
        "fixed_m": same,
        "fixed_8": eight,
        "auto_vs_fixed_m_low": interval(len(everybody), lambda drawn: ahead(drawn, 0))[0],
        "auto_vs_fixed_8_low": interval(len(everybody), lambda drawn: ahead(drawn, 1))[0],
        "sound_auto_candidates": float(sound.candidates.mean()),
        "sound_auto_quality": float(sound.quality.mean()),
        "sound_fixed_m": sound.evenly(everybody)[0],
        "sound_fixed_8": sound.evenly(everybody)[1],
        "auto_gap_closed": sound.gap_closed(everybody),
        "auto_gap_closed_low": low,
        "auto_gap_closed_high": high,
    }


async def served_waves(session: aiohttp.ClientSession, url: str, asked: Sequence[Question]) -> Figures:
    replies = await all_of(asked, 4, "auto", lambda one: sides.ask(session, url, noisy_body(one, best_of="auto")))
    is_right = right(asked, [sides.texts(reply)[0] for reply in replies])
    return {
        "auto_served_candidates": statistics.fmean(reply["plumbline"]["generated"] for reply in replies),
        "auto_served_quality": float(is_right.mean()),
    }


# --- part 2: early rejection ------------------------------------------------------------------------------


async def early(session: aiohttp.ClientSession, url: str, asked: Sequence[Question]) -> Figures:
    async def both(question: Question) -> list[dict[str, Any]]:
        bodies = [
            noisy_body(question, best_of=sides.COUNT, plumbline={"early_reject": rejects}) for rejects in (True, False)
        ]
        first = question.scene.seed % 2
        replies = {at: await sides.ask(session, url, bodies[at]) for at in (first, 1 - first)}
        return [replies[0], replies[1]]

    replies = await all_of(asked, 4, "early rejection", both)
    rejecting, plain = (right(asked, [sides.texts(pair[at])[0] for pair in replies]) for at in (0, 1))
    tokens = np.array([[reply["usage"]["completion_tokens"] for reply in pair] for pair in replies], dtype=np.float64)
    gain = rejecting - plain
    low, high = interval(len(asked), lambda drawn: float(gain[drawn].mean()))
    return {
        "early_prompts": len(asked),
        "early_reject_tokens_ratio": float(tokens[:, 0].sum() / tokens[:, 1].sum()),
        "early_reject_quality_gain": float(gain.mean()),
        "early_reject_quality_gain_low": low,
        "early_reject_quality_gain_high": high,
        "early_reject_quality": float(rejecting.mean()),
    }


# --- together ---------------------------------------------------------------------------------------------


async def measure(
    running: sides.Sides, peers: Peers | None, plan: Plan, parts: Sequence[str]
) -> tuple[Figures, Pool | None]:
    """All that needs the engine."""
    seeds, result, pool = plan.seeds, Figures(), None
    timeout = aiohttp.ClientTimeout(sides.TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await sides.ask(session, running.service, noisy_body(description_question(seeds[0]), best_of=8))  # compiles
        if "latency" in parts:
            questions = map(description_question, seeds[plan.pool + plan.early :])
            result |= await latency(session, running, peers, questions, plan.latency)
        if "early" in parts:
            result |= await early(session, running.service, described(seeds[plan.pool : plan.pool + plan.early]))
        if "pool" in parts:
            asked = described(seeds[: plan.pool])
            pool = await collect(session, running.service, asked)
            result |= await served_waves(session, running.service, asked)
    return result, pool


def resample(pool: Pool, plan: Plan, plot: Path) -> tuple[Figures, Shares]:
    """All that is found about the pool, without the engine."""
    asked, by_strategy = described(plan.seeds[: plan.pool]), curves(pool)
    found = asyncio.run(waves(pool, plan.auto_rounds))
    without = asyncio.run(waves(seen_soundly(pool, asked), plan.auto_rounds))
    draw(plot, by_strategy, found)
    return about_scorer(pool) | from_curves(by_strategy) | from_waves(found, without), with_intervals(by_strategy)


def report(console: Console, result: Figures, shares: Shares) -> None:
    if shares:
        table = Table("right answers", *(f"n = {size}" for size in SIZES))
        for name, by_size in shares.items():
            table.add_row(name, *(f"{mean:.3f}\n{low:.2f}-{high:.2f}" for mean, low, high in by_size.values()))
        console.print(table)
    table = Table("figure", "target", "reached")
    for name, value in result.items():
        table.add_row(name, TARGETS.get(name, ""), f"{value:.3f}")
    console.print(table)


def run(directory: Path, plan: Plan, parts: Sequence[str], plot: Path, console: Console) -> tuple[Figures, Shares]:
    command, peers = None, None
    if "latency" in parts:
        with console.status("optillm in an environment of its own (a minute, the first time)"):
            try:
                command = install()
            except NotInstalled as error:
                console.print(f"[red]skipped: vs_optillm_latency[/red] ({error})")
    with ExitStack() as stack:
        with console.status("starting the engine"):
            running = stack.enter_context(sides.running(directory, plan.seeds[: plan.pool + plan.early]))
        if command is not None:
            port = free_port()
            optillm, brief = (
                stack.enter_context(OptiLlm(command, directory, url, sides.COUNT)).url
                for url in (running.engine, f"http://{HOST}:{port}")
            )
            peers = Peers(optillm, brief, port)
        result, pool = asyncio.run(measure(running, peers, plan, parts))
    if pool is None:
        return result, {}
    figures, shares = resample(pool, plan, plot)
    return result | figures, shares


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.best_of_n", description="What choosing among n gains.")
    parser.add_argument("--quick", action="store_true", help="few prompts, in four minutes; wide intervals")
    parser.add_argument("--development", action="store_true", help="the scenes that settings were chosen on")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be given again")
    parser.add_argument("--plot", type=Path, default=Path("build/best-of-n.svg"), help="where the plot goes")
    args = parser.parse_args()
    plan, parts = DEVELOPMENT if args.development else QUICK if args.quick else FULL, args.part or PARTS
    console, load = Console(width=120), os.getloadavg()
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        result, shares = run(Path(directory), plan, parts, args.plot, console)
    report(console, result, shares)
    print(f"machine's load before: {load[0]:.1f}")
    is_valid = result.get("argmax_fall_8_to_64", SMALLEST_FALL) >= SMALLEST_FALL
    if not is_valid:
        console.print("[red]INVALID: the blind spot does not bite; the highest of 64 is as good as that of 8.[/red]")
    rounded = {name: round(value, 4) if math.isfinite(value) else None for name, value in result.items()}
    print("RESULT", json.dumps({"valid": is_valid, **rounded, "right_answers": shares}))
    return 0 if is_valid else 1


if __name__ == "__main__":
    raise SystemExit(main())

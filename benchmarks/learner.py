"""Training steps of the learner beside TRL's, same model, same data, same adapter, equal loss at the first step.

    python -m benchmarks.learner [--quick]

A Qwen3-VL of 26 million parameters with random weights, pictures of 512 x 512 pixels (256 tokens), questions of 16 and
answers of 32 tokens, LoRA of rank 16, float32, two cores. A step of DPO takes 4 pairs, one of GRPO 2 prompts with 8
answers each, AdamW included. What either side does in it is said in `benchmarks._learner_sides`.

- `dpo_vs_trl`: seconds of TRL's step / ours with the reference and the pictures' features cached (from the second
  epoch on).
- `dpo_first_epoch_vs_trl`: the same with nothing cached: our step reads and encodes the pictures and runs the
  reference.
- `grpo_vs_trl`: the training step alone, generation left out on both sides; pictures' features and references are
  cached, as they are from a group's second visit on. `grpo_new_prompts_vs_trl`: the step computes them itself, and both
  references with them, where TRL is handed what it compares with.
- `peak_memory_vs_trl`: ours / TRL's, the worse of DPO and GRPO. Peak of the resident set minus what was resident when
  training began, the whole batch in one forward on both sides; our peak includes the first epoch.

Every run is a process of its own, the sides take turns, ratios are formed within a turn and their median counts. TRL
runs with its whole batch in a forward and with one prompt at a time; the faster one is compared. Losses of the first
step must agree to 1e-4 of themselves, else there is no result.

Left out: ms-swift, whose packing is the nearest thing elsewhere. Its release 4.6 wants TRL 0.29 and CUDA's build of
torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import _learner_world as world_of

DPO_BATCH = 4
GRPO_BATCH = 2
WARMUP = 1
TARGETS = {
    "dpo_vs_trl": ">= 4",
    "dpo_first_epoch_vs_trl": ">= 2.5",
    "grpo_vs_trl": ">= 5",
    "grpo_new_prompts_vs_trl": "",
    "peak_memory_vs_trl": "<= .5",
}


@dataclass(frozen=True, slots=True)
class Plan:
    turns: int
    steps: int


FULL = Plan(turns=3, steps=2)
QUICK = Plan(turns=1, steps=1)
SIDES = {
    "dpo_ours": ["--batch", str(DPO_BATCH)],
    "dpo_trl": ["--batch", str(DPO_BATCH)],
    "dpo_trl_one_prompt": ["--batch", str(DPO_BATCH), "--rows", "1"],
    "grpo_ours": ["--batch", str(GRPO_BATCH)],
    "grpo_trl": ["--batch", str(GRPO_BATCH)],
    "grpo_trl_one_prompt": ["--batch", str(GRPO_BATCH), "--rows", str(world_of.GROUP)],
}


@dataclass(frozen=True, slots=True)
class Run:
    """`first` are the timed steps of the first epoch, `later` those with everything cached (empty for TRL)."""

    first: list[float]
    later: list[float]
    losses: list[float]
    peak_mib: float


def run(name: str, world: Path, plan: Plan) -> Run:
    """One side in a process of its own. Its errors are ours."""
    side = name.removesuffix("_one_prompt")
    command = [sys.executable, "-m", "benchmarks._learner_sides", side, str(world), *SIDES[name]]
    command += ["--steps", str(plan.steps), "--warmup", str(WARMUP)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("SIDE ")]
    if done.returncode or not lines:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(lines[-1].removeprefix("SIDE "))
    end = WARMUP + plan.steps
    return Run(said["seconds"][WARMUP:end], said["seconds"][end:], said["losses"], said["peak_mib"])


def check_losses(ours: Run, theirs: Run, kind: str) -> float:
    """The relative difference at step 1. Raises `SystemExit` when it is more than rounding."""
    difference = abs(ours.losses[0] - theirs.losses[0]) / max(abs(theirs.losses[0]), 0.1)
    if difference > 1e-4:
        raise SystemExit(f"{kind}: loss {ours.losses[0]} at step 1, TRL {theirs.losses[0]}: nothing to compare")
    return difference


def ratios(turn: dict[str, Run]) -> dict[str, float]:
    dpo, grpo = turn["dpo_ours"], turn["grpo_ours"]
    trl = {
        kind: min(statistics.median(turn[f"{kind}_{way}"].first) for way in ("trl", "trl_one_prompt"))
        for kind in ("dpo", "grpo")
    }
    return {
        "dpo_vs_trl": trl["dpo"] / statistics.median(dpo.later),
        "dpo_first_epoch_vs_trl": trl["dpo"] / statistics.median(dpo.first),
        "grpo_vs_trl": trl["grpo"] / statistics.median(grpo.later),
        "grpo_new_prompts_vs_trl": trl["grpo"] / statistics.median(grpo.first),
        "peak_memory_vs_trl": max(
            turn["dpo_ours"].peak_mib / turn["dpo_trl"].peak_mib,
            turn["grpo_ours"].peak_mib / turn["grpo_trl"].peak_mib,
        ),
    }


def table(turns: list[dict[str, Run]], figures: dict[str, list[float]]) -> None:
    console = Console(width=110)
    times = Table(title="Seconds of a step (medians) and peak memory above the loaded model")
    for column in ("side", "first epoch", "everything cached", "peak MiB"):
        times.add_column(column, justify="left" if column == "side" else "right")
    for name in SIDES:
        runs = [turn[name] for turn in turns]
        later = [second for one in runs for second in one.later]
        times.add_row(
            name,
            f"{statistics.median(second for one in runs for second in one.first):.2f}",
            f"{statistics.median(later):.2f}" if later else "",
            f"{statistics.median(one.peak_mib for one in runs):.0f}",
        )
    console.print(times)
    result = Table(title="Against TRL, same turn")
    for column in ("figure", "target", "median", "from", "to"):
        result.add_column(column, justify="left" if column == "figure" else "right")
    for name, values in figures.items():
        median = statistics.median(values)
        result.add_row(name, TARGETS[name], *(f"{value:.2f}" for value in (median, min(values), max(values))))
    console.print(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn, one timed step")
    plan = QUICK if parser.parse_args().quick else FULL
    questions = max(DPO_BATCH, GRPO_BATCH) * (WARMUP + plan.steps)
    turns: list[dict[str, Run]] = []
    with tempfile.TemporaryDirectory() as directory, Progress(transient=True) as progress:
        world = Path(directory)
        world_of.make(world, "small", questions)
        task = progress.add_task("training", total=plan.turns * len(SIDES))
        for number in range(plan.turns):
            turn = {}
            # The side that goes first changes from turn to turn.
            for name in list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]:
                progress.update(task, description=name)
                turn[name] = run(name, world, plan)
                progress.advance(task)
            turns.append(turn)
    gaps = {
        f"{kind}_loss_difference": max(
            check_losses(turn[f"{kind}_ours"], turn[f"{kind}_trl"], kind.upper()) for turn in turns
        )
        for kind in ("dpo", "grpo")
    }
    each = [ratios(turn) for turn in turns]
    figures = {name: [one[name] for one in each] for name in each[0]}
    table(turns, figures)
    medians = {name: round(statistics.median(values), 3) for name, values in figures.items()}
    print("RESULT " + json.dumps({**medians, **gaps, "turns": plan.turns, "steps": plan.steps}))


if __name__ == "__main__":
    main()

"""The learner's training steps beside TRL's on a GPU: Qwen3-VL-2B's configuration with random weights, bfloat16.

    python -m benchmarks.learner_gpu [--quick] [--checkpointing] [--memory-share 0.4]
    python -m benchmarks.learner_gpu --device cpu --tiny     (that it runs, without a GPU)

Needs torch, transformers, peft and trl beside this directory. Pictures of 1,024 x 1,024 pixels (1,024 tokens), answers
of 128 tokens, LoRA of rank 16. First our two ways of attention are measured in training steps, two phases and
FlexAttention, and the faster one is used. Then the sides take turns as in `benchmarks.learner`, with the same figures.

- `mfu`: model FLOPs utilisation of our DPO step with everything cached: what its tokens cost in the decoder's matrices,
  attention and the head (forward, and the gradient of activations; frozen weights need no gradient) / seconds / the
  fastest matrix product of 8,192 x 8,192 that the device does here.
- `--memory-share`: both sides may use this share of the GPU's memory only, as beside an engine that holds the rest;
  a side that does not fit says so and drops out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import _learner_world as world_of
from benchmarks._learner_flex import FLEX_PREFIX
from benchmarks._learner_world import Shape
from learner.attention import SHARED_PREFIX

BATCH = {"dpo": 4, "grpo": 2}
WARMUP = 2
"""Steps; the first of them compiles."""


def matmul_peak_flops(device: str) -> float:
    """Best of ten products of square matrices, FLOP/s, in the dtype that is trained in."""
    size = 8192 if device == "cuda" else 512
    left = torch.randn(size, size, device=device, dtype=world_of.dtype_on(device))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def step_flops(shape: Shape, batch: int, answers: int) -> float:
    """Of one training step of ours on prompts with this many answers, everything cached."""
    prompt = shape.image_tokens + 2 + shape.question_tokens
    fed = shape.answer_tokens - 1
    tokens = prompt + answers * fed
    seen = prompt**2 / 2 + answers * (fed * prompt + fed**2 / 2)
    attention = 4 * seen * shape.heads * shape.head_size * shape.layers
    head = 2 * answers * shape.answer_tokens * shape.hidden * shape.vocabulary
    forward = 2 * shape.layer_parameters * tokens + attention + head
    # Backward: the matrices once (activations only), attention's five products for two.
    return batch * (2 * (forward - attention) + 3.5 * attention)


def run(side: str, world: Path, options: list[str]) -> dict[str, Any] | None:
    """One side in a process of its own; None when it ran out of memory."""
    command = [sys.executable, "-m", "benchmarks._learner_sides", side, str(world), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("SIDE ")]
    if lines and not done.returncode:
        result: dict[str, Any] = json.loads(lines[-1].removeprefix("SIDE "))
        return result
    if "OutOfMemoryError" in done.stderr:
        print(f"{side}: out of memory")
        return None
    raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")


def seconds(result: dict[str, Any], steps: int, *, cached: bool) -> float:
    end = WARMUP + steps
    return statistics.median(result["seconds"][end:] if cached else result["seconds"][WARMUP:end])


def choose_attention(world: Path, device: str, options: list[str], steps: int) -> str:
    """The faster of the two, by whole training steps of DPO. FlexAttention has no backward pass on the CPU."""
    measured = {}
    for name in (SHARED_PREFIX, FLEX_PREFIX) if device == "cuda" else (SHARED_PREFIX,):
        result = run("dpo_ours", world, [*options, "--batch", str(BATCH["dpo"]), "--attention", name])
        if result is not None:
            measured[name] = seconds(result, steps, cached=True)
            print(f"attention {name}: {measured[name]:.3f} s a step, peak {result['peak_mib']:.0f} MiB")
    if not measured:
        raise SystemExit("no way of attention fits into the memory")
    return min(measured, key=measured.__getitem__)


def compare(kind: str, world: Path, options: list[str], attention: str, steps: int) -> dict[str, float]:
    """One turn of ours and TRL's. Losses of the first step must agree to what bfloat16 allows."""
    options = [*options, "--batch", str(BATCH[kind])]
    ours = run(f"{kind}_ours", world, [*options, "--attention", attention])
    theirs = run(f"{kind}_trl", world, options)
    if ours is None:
        raise SystemExit(f"our {kind} does not fit into the memory")
    figures = {
        f"{kind}_s": seconds(ours, steps, cached=True),
        f"{kind}_first_epoch_s": seconds(ours, steps, cached=False),
    }
    if theirs is None:
        return figures
    gap = abs(ours["losses"][0] - theirs["losses"][0])
    if gap > 0.05 * max(abs(theirs["losses"][0]), 0.1):
        raise SystemExit(f"{kind}: loss {ours['losses'][0]} at step 1, TRL {theirs['losses'][0]}: nothing to compare")
    trl = seconds(theirs, steps, cached=False)
    figures |= {
        f"{kind}_trl_s": trl,
        f"{kind}_vs_trl": trl / figures[f"{kind}_s"],
        f"{kind}_first_epoch_vs_trl": trl / figures[f"{kind}_first_epoch_s"],
        f"{kind}_peak_memory_vs_trl": ours["peak_mib"] / theirs["peak_mib"],
        f"{kind}_loss_difference": gap,
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters")
    parser.add_argument("--quick", action="store_true", help="one turn, one timed step")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing on both sides")
    parser.add_argument("--memory-share", type=float, default=1.0, help="of the GPU's memory")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device here; --device cpu --tiny shows that the script runs")
        return
    name, turns, steps = ("tiny" if args.tiny else "2b"), (1 if args.quick else 3), (1 if args.quick else 3)
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    options = ["--device", args.device, "--steps", str(steps), "--warmup", str(WARMUP)]
    options += ["--memory-share", str(args.memory_share), *(["--checkpointing"] if args.checkpointing else [])]
    with tempfile.TemporaryDirectory() as directory:
        world = Path(directory)
        world_of.make(world, name, max(BATCH.values()) * (WARMUP + steps), args.device)
        if args.device == "cuda":
            torch.cuda.empty_cache()
        attention = choose_attention(world, args.device, options, steps)
        each: list[dict[str, float]] = []
        for _ in range(turns):
            turn = {k: v for kind in BATCH for k, v in compare(kind, world, options, attention, steps).items()}
            each.append(turn)
    figures = {key: statistics.median(turn[key] for turn in each if key in turn) for key in each[0]}
    peak = matmul_peak_flops(args.device)
    figures["mfu"] = step_flops(world_of.SHAPES[name], BATCH["dpo"], 2) / figures["dpo_s"] / peak
    figures["matmul_peak_tflops"] = peak / 1e12
    for key, value in figures.items():
        print(f"{key:28} {value:.4g}")
    about = {"device": device, "model": name, "attention": attention, "memory_share": args.memory_share}
    print("RESULT " + json.dumps({**about, **{key: round(value, 5) for key, value in figures.items()}}))


if __name__ == "__main__":
    main()

"""One side of the learner's benchmarks in a process of its own: train some steps, print times, losses, memory as JSON.

TRL is used as its users would: `DPOTrainer` on a data set with an image column, which refuses
`precompute_ref_log_probs` for images, so the reference runs in every step; `GRPOTrainer` with its own training step,
whose generation is replaced by the prepared batch that generation would have handed over
(`_generate_and_score_completions`), pixel values and logged log-probabilities included. Gradient checkpointing, TRL's
default, is off unless `--checkpointing`: that makes TRL faster.

Our side is the learner's own code, `Trainer.step`. In GRPO both sides know the engine's log-probabilities of the
answers; ours also measures the policy at the round's beginning, which is what it clips against.

Memory on the CPU is the resident set's; on CUDA what torch has allocated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from datasets import List as ListFeature
from peft import set_peft_model_state_dict
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from benchmarks import _learner_flex as flex
from benchmarks import _learner_world as world_of
from benchmarks._learner_world import GROUP, World
from learner.attention import SHARED_PREFIX
from learner.batch import Collator
from learner.examples import Answer, Example, PairExample, RewardedExample
from learner.labels import mean_length
from learner.model import Base, Policy
from learner.prefix import PrefixModel
from learner.references import References
from learner.settings import Settings
from learner.trainer import Trainer
from learner.vision import Vision

BETA = 0.1
RATE = 1e-4
EPSILON = 0.2


def status_mib(name: str) -> float:
    """A line of /proc/self/status: VmRSS (now) or VmHWM (its peak since `forget_peak`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Clock:
    """Seconds of every step; memory above what was held at the start."""

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._cuda = device == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._held_mib = torch.cuda.memory_allocated() / 2**20
        else:
            forget_peak()
            self._held_mib = status_mib("VmRSS")
        self._last = time.perf_counter()

    def tick(self, loss: float | None = None) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now
        if loss is not None:
            self.losses.append(loss)

    def result(self) -> dict[str, Any]:
        peak = torch.cuda.max_memory_allocated() / 2**20 if self._cuda else status_mib("VmHWM")
        return {"seconds": self.seconds, "losses": self.losses, "peak_mib": peak - self._held_mib}


class Ticks(TrainerCallback):
    """A step of TRL ends where the next begins, so fetching and collating its batch counts for it."""

    clock: Clock

    def __init__(self, device: str) -> None:
        self._device = device

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.clock = Clock(self._device)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.tick()


def trl_arguments(args: argparse.Namespace, rows: int) -> dict[str, Any]:
    return {
        "output_dir": str(args.world / "trl"),
        "max_steps": args.warmup + args.steps,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": args.batch * (GROUP if args.side.startswith("grpo") else 1) // rows,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": args.device == "cpu",
        "bf16": args.device == "cuda",
        "gradient_checkpointing": args.checkpointing,
        "train_sampling_strategy": "sequential",  # the order in which our side takes them
        "disable_tqdm": True,
    }


def finish_trl(trainer: Any, args: argparse.Namespace, world: World) -> dict[str, Any]:
    """Put the common adapter in behind the trainer's back: given before, TRL would make it the reference."""
    set_peft_model_state_dict(trainer.model, world.adapter())
    ticks = Ticks(args.device)
    trainer.add_callback(ticks)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {**ticks.clock.result(), "losses": losses}


def dpo_trl(args: argparse.Namespace, world: World) -> dict[str, Any]:
    count = args.batch * (args.warmup + args.steps)
    columns = {
        "images": [[str(world.image(number))] for number in range(count)],
        "prompt": [world.prompt_text(number) for number in range(count)],
        "chosen": [" " + world_of.words(world.answers[number][0]) for number in range(count)],
        "rejected": [" " + world_of.words(world.answers[number][1]) for number in range(count)],
    }
    text = Value("string")
    kinds = Features({"images": ListFeature(ImageFeature()), "prompt": text, "chosen": text, "rejected": text})
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(world.model, dtype=world_of.dtype_on(args.device)),
        args=DPOConfig(**trl_arguments(args, args.rows or args.batch), beta=BETA, max_length=None),
        train_dataset=Dataset.from_dict(columns, features=kinds),
        processing_class=AutoProcessor.from_pretrained(world.model),
        peft_config=world_of.lora(),
    )
    return finish_trl(trainer, args, world)


class Prepared(GRPOTrainer):
    """Generation answers with the next prepared batch."""

    batches: list[dict[str, Any]]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        return self.batches.pop(0)


def grpo_batch(world: World, processor: Any, numbers: range) -> dict[str, Any]:
    """What `_generate_and_score_completions` returns: rows of one prompt follow each other, each with its picture."""
    images = [[Image.open(world.image(number)).convert("RGB")] for number in numbers for _ in range(GROUP)]
    texts = [world.prompt_text(number) for number in numbers for _ in range(GROUP)]
    encoded = processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt")
    completions = torch.tensor([answer for number in numbers for answer in world.answers[number]])
    rewards = world.rewards[numbers.start : numbers.stop]
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)  # as TRL has it
    types = encoded["mm_token_type_ids"]
    return {
        "prompt_ids": encoded["input_ids"],
        "prompt_mask": encoded["attention_mask"],
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "advantages": advantages.flatten(),
        "num_items_in_batch": torch.tensor(completions.numel()),
        "old_per_token_logps": world.logged[numbers.start : numbers.stop].flatten(0, 1),
        "pixel_values": encoded["pixel_values"],
        "image_grid_thw": encoded["image_grid_thw"],
        "mm_token_type_ids": torch.cat([types, torch.zeros_like(completions)], dim=1),
        "num_images": [1] * len(texts),
    }


def grpo_trl(args: argparse.Namespace, world: World) -> dict[str, Any]:
    processor = AutoProcessor.from_pretrained(world.model)
    rows = args.rows or args.batch * GROUP
    steps = args.warmup + args.steps
    prompts = [{"prompt": world.prompt_text(number)} for number in range(args.batch * steps)]
    trainer = Prepared(
        model=AutoModelForImageTextToText.from_pretrained(world.model, dtype=world_of.dtype_on(args.device)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            **trl_arguments(args, rows),
            num_generations=GROUP,
            max_completion_length=world.shape.answer_tokens,
            epsilon=EPSILON,
        ),
        train_dataset=Dataset.from_list(prompts),
        processing_class=processor,
        peft_config=world_of.lora(),
    )
    batches = [grpo_batch(world, processor, range(step * args.batch, (step + 1) * args.batch)) for step in range(steps)]
    trainer.batches = [
        {name: value.to(args.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        for batch in batches
    ]
    return finish_trl(trainer, args, world)


# --- ours -----------------------------------------------------------------------------------------------------


def pair(world: World, number: int) -> Example:
    answers = tuple(
        Answer(str(place), tuple(world.answers[number][place]), "stop", may_be_positive=True, is_human=False)
        for place in range(2)
    )
    preferred = PairExample(0, 1, 1.0, "choice", "somebody")
    return Example(str(number), world.prompt(number), (str(number),), answers, (preferred,), ())


def group(world: World, number: int) -> Example:
    logged, rewards = world.logged[number].tolist(), world.rewards[number].tolist()
    answers = tuple(
        Answer(str(place), tuple(ids), "stop", may_be_positive=True, is_human=False, logprobs=tuple(logged[place]))
        for place, ids in enumerate(world.answers[number])
    )
    rewarded = tuple(RewardedExample(place, reward, 1.0) for place, reward in enumerate(rewards))
    return Example(str(number), world.prompt(number), (str(number),), answers, (), (), rewarded)


def ours(
    args: argparse.Namespace, world: World, settings: Settings, example: Callable[[World, int], Example]
) -> dict[str, Any]:
    """The first epoch caches nothing beforehand; the second takes the same batches again."""
    settings = settings.model_copy(
        update={"rank": world_of.RANK, "alpha": world_of.ALPHA, "learning_rate": RATE, "beta": BETA}
    )
    policy = Policy.fresh(Base(world.model, args.device), settings, seed=0)
    policy.load(world.adapter())
    flex.register()
    engine = PrefixModel(policy.model, checkpointing=args.checkpointing, attention=args.attention)
    vision = Vision(policy.base.model, world.model, lambda name: world.image(int(name)).read_bytes(), 2**31)
    recipe = settings.recipe()
    references = References(policy, "base", begins_at_base=False)
    collator = Collator(references, engine, vision, args.tokens, others=recipe.references)
    count = args.batch * (args.warmup + args.steps)
    examples = [example(world, number) for number in range(count)]
    collator.round_length = mean_length(examples)
    trainer = Trainer(policy, collator, settings, 10**6, recipe=recipe, references=references)
    clock = Clock(args.device)
    for epoch in range(2):
        for first in range(0 if epoch == 0 else args.warmup * args.batch, count, args.batch):
            metrics = trainer.step(examples[first : first + args.batch])
            clock.tick(metrics["loss"])
    return clock.result()


def dpo_ours(args: argparse.Namespace, world: World) -> dict[str, Any]:
    return ours(args, world, Settings(objectives={"sigmoid": 1.0}), pair)


def grpo_ours(args: argparse.Namespace, world: World) -> dict[str, Any]:
    """With DAPO's normalisation over all tokens, TRL's default, and TRL's bounds."""
    options = {"dapo": {"epsilon": EPSILON, "epsilon_high": EPSILON}}
    return ours(args, world, Settings(objectives={"dapo": 1.0}, options=options), group)


SIDES = {"dpo_ours": dpo_ours, "dpo_trl": dpo_trl, "grpo_ours": grpo_ours, "grpo_trl": grpo_trl}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("world", type=Path)
    parser.add_argument("--batch", type=int, required=True, help="questions of an optimiser step")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rows", type=int, default=0, help="TRL's rows of a forward pass; the whole batch by default")
    parser.add_argument("--tokens", type=int, default=8192, help="our tokens of a forward pass")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--attention", default=SHARED_PREFIX, help="ours")
    parser.add_argument("--memory-share", type=float, default=1.0, help="of the GPU's memory, as beside an engine")
    args = parser.parse_args()
    if args.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(args.memory_share)
    else:
        torch.set_num_threads(2)
    print("SIDE " + json.dumps(SIDES[args.side](args, world_of.read(args.world))))


if __name__ == "__main__":
    main()

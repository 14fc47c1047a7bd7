"""Trains the demo model from scratch: `python -m clients.demo.train --out DIR`.

Everything is a function of the seed and the step number: batch `i` is drawn from its own random stream,
so a run that was killed and resumed sees the same batches as one that was not. Progress is kept in
`DIR/.training/step-N/` (safetensors and JSON, torch's random state included), written under a temporary
name and renamed, so that a kill at any moment leaves a whole checkpoint. The finished model is written
to `DIR` itself and the checkpoints are removed.

Loss is taken on the assistant's last turn only.
"""

# transformers leaves many of its functions without annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from clients.demo.language import Question, any_question, teacher_answer
from clients.demo.model import MERGE, build_model, build_processor, save_model, token_id
from clients.demo.scenes import TRAINING_SEEDS, Scene, scene
from clients.demo.tokenizer import IMAGE_PAD, SYSTEM_PROMPTS, TURN_END, train_tokenizer

DEFAULT_STEPS: Final = 4_000
BATCH: Final = 64
# Rows of like length run together: half the padding of one part, and the same gradient.
PARTS: Final = 2
SCENES: Final = 24_000
PEAK_LEARNING_RATE: Final = 1.5e-3
WARM_UP_SHARE: Final = 0.08
WEIGHT_DECAY: Final = 0.01
MAX_GRADIENT_NORM: Final = 1.0
CHECKPOINT_STEPS: Final = 250
DEFAULT_SEED: Final = 7

SYSTEM_RATE: Final = 0.15
EARLIER_TURN_RATE: Final = 0.08
TEXT_FIRST_RATE: Final = 0.2
_IGNORED: Final = -100
_RENDER_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Picture:
    """A preprocessed picture: one byte per value, and one of the two equal frames, to hold many in memory."""

    patches: torch.Tensor  # (patches, 3, 256), uint8
    grid: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        """What the picture costs in the prompt."""
        return self.patches.shape[0] // MERGE**2

    def pixel_values(self) -> torch.Tensor:
        """What the image processor gave, (patches, 1536) float32."""
        frame = self.patches.float() / 127.5 - 1.0
        return frame.unsqueeze(2).expand(-1, -1, 2, -1).reshape(frame.shape[0], -1)


@dataclass(frozen=True, slots=True)
class Settings:
    """What defines a run; a resumed one must have the same."""

    steps: int
    seed: int
    scenes: int


@dataclass(frozen=True, slots=True)
class Run:
    """What changes from step to step."""

    model: Qwen3VLForConditionalGeneration
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @classmethod
    def start(cls, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> Run:
        """Fresh weights, a fresh optimiser, and the first of `settings.steps` learning rates."""
        model = build_model(tokenizer, settings.seed).train()
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, PEAK_LEARNING_RATE, total_steps=settings.steps, pct_start=WARM_UP_SHARE
        )
        return cls(model, optimiser, schedule)


def train(out: Path, settings: Settings, *, resume: bool) -> None:
    """Run (or finish) the training and write the model to `out`."""
    tokenizer = train_tokenizer()
    run = Run.start(tokenizer, settings)
    checkpoints = out / ".training"
    step = load_checkpoint(checkpoints, settings, run) if resume else 0
    with _progress() as progress:
        pictures = prepare_pictures(tokenizer, settings.scenes, progress)
        task = progress.add_task("training", total=settings.steps, completed=step, note="")
        running_loss: float | None = None
        while step < settings.steps:
            loss = train_step(run, make_batch(step, settings, tokenizer, pictures))
            step += 1
            running_loss = loss if running_loss is None else 0.98 * running_loss + 0.02 * loss
            progress.update(task, completed=step, note=f"loss {running_loss:.4f}")
            if step % CHECKPOINT_STEPS == 0 or step == settings.steps:
                progress.console.print(f"step {step}: loss {running_loss:.4f}")
                save_checkpoint(checkpoints, step, settings, run)
    save_model(run.model, tokenizer, out)
    shutil.rmtree(checkpoints)


def prepare_pictures(tokenizer: PreTrainedTokenizerFast, count: int, progress: Progress) -> list[tuple[Scene, Picture]]:
    """Render the training scenes and run them through the real image processor, once."""
    processor = build_processor(tokenizer).image_processor
    task = progress.add_task("rendering", total=count, note="")
    prepared: list[tuple[Scene, Picture]] = []
    for first in range(0, count, _RENDER_CHUNK):
        views = [scene(seed) for seed in TRAINING_SEEDS[first : min(first + _RENDER_CHUNK, count)]]
        images = [Image.open(BytesIO(view.render())).convert("RGB") for view in views]
        made = processor(images=images, return_tensors="pt")
        grids = [(int(t), int(h), int(w)) for t, h, w in made["image_grid_thw"].tolist()]
        values = ((made["pixel_values"] + 1.0) * 127.5).round().to(torch.uint8)
        for view, grid, rows in zip(views, grids, values.split([t * h * w for t, h, w in grids]), strict=True):
            frame = rows.view(rows.shape[0], 3, 2, -1)[:, :, 0].clone()
            prepared.append((view, Picture(frame, grid)))
        progress.update(task, completed=len(prepared))
    progress.remove_task(task)
    return prepared


def make_batch(
    step: int, settings: Settings, tokenizer: PreTrainedTokenizerFast, pictures: list[tuple[Scene, Picture]]
) -> list[dict[str, torch.Tensor]]:
    """Batch number `step` of this run, a pure function of its arguments, in parts of like length."""
    rng = random.Random(f"batch {settings.seed} {step}")
    chosen = [pictures[rng.randrange(len(pictures))] for _ in range(BATCH)]
    rows = [(*make_example(view, picture.tokens, rng, tokenizer), picture) for view, picture in chosen]
    rows.sort(key=lambda row: len(row[0]))
    part = BATCH // PARTS
    return [_padded(rows[first : first + part], tokenizer) for first in range(0, BATCH, part)]


def _padded(rows: list[tuple[list[int], int, Picture]], tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    shape = (len(rows), max(len(tokens) for tokens, _, _ in rows))
    ids = torch.full(shape, tokenizer.pad_token_id, dtype=torch.long)
    labels = torch.full(shape, _IGNORED, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, (tokens, prompt_length, _) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, prompt_length : len(tokens)] = ids[row, prompt_length : len(tokens)]
        mask[row, : len(tokens)] = 1
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "mm_token_type_ids": torch.eq(ids, token_id(tokenizer, IMAGE_PAD)).int(),
        "pixel_values": torch.cat([picture.pixel_values() for _, _, picture in rows]),
        "image_grid_thw": torch.tensor([picture.grid for _, _, picture in rows]),
    }


def make_example(
    view: Scene, image_tokens: int, rng: random.Random, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], int]:
    """One conversation as token ids, and where the answer that counts begins."""
    asked = any_question(view, rng)
    messages: list[dict[str, Any]] = []
    if rng.random() < SYSTEM_RATE:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    if rng.random() < EARLIER_TURN_RATE:
        earlier = any_question(view, rng)
        messages.append({"role": "user", "content": _with_image(earlier, rng)})
        messages.append({"role": "assistant", "content": teacher_answer(earlier, rng)})
        messages.append({"role": "user", "content": asked.prompt})
    else:
        messages.append({"role": "user", "content": _with_image(asked, rng)})
    prompt = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    prompt_ids = tokenizer(prompt.replace(IMAGE_PAD, IMAGE_PAD * image_tokens)).input_ids
    answer_ids = tokenizer(teacher_answer(asked, rng) + TURN_END).input_ids
    return [*prompt_ids, *answer_ids], len(prompt_ids)


def train_step(run: Run, parts: list[dict[str, torch.Tensor]]) -> float:
    """One optimiser step over the parts of one batch; returns the mean loss of its answers' tokens."""
    answer_tokens = sum(int((part["labels"][:, 1:] != _IGNORED).sum()) for part in parts)
    total = 0.0
    for part in parts:
        inputs = {name: value for name, value in part.items() if name != "labels"}
        hidden = run.model.model(**inputs, use_cache=False).last_hidden_state  # (B, T, hidden)
        targets = part["labels"][:, 1:]
        counted = targets != _IGNORED
        logits = run.model.lm_head(hidden[:, :-1][counted])  # (answer tokens, vocabulary)
        loss = cross_entropy(logits, targets[counted], reduction="sum") / answer_tokens
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), MAX_GRADIENT_NORM)
    run.optimiser.step()
    run.schedule.step()
    run.optimiser.zero_grad(set_to_none=True)
    return total


def save_checkpoint(checkpoints: Path, step: int, settings: Settings, run: Run) -> None:
    """Write everything that a resumed run needs, then drop what is older."""
    temporary, final = checkpoints / "writing", checkpoints / f"step-{step:06d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_parameters(run.model), temporary / "model.safetensors")
    state = run.optimiser.state_dict()["state"]
    moments = {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}
    save_file({**moments, "torch_rng": torch.get_rng_state()}, temporary / "optimiser.safetensors")
    group = run.optimiser.state_dict()["param_groups"][0]
    record = {
        "step": step,
        "settings": asdict(settings),
        "optimiser": {name: value for name, value in group.items() if name != "params"},
        "schedule": {name: value for name, value in run.schedule.state_dict().items() if isinstance(value, int | list)},
    }
    (temporary / "state.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for older in _finished(checkpoints)[:-1]:
        shutil.rmtree(older)


def load_checkpoint(checkpoints: Path, settings: Settings, run: Run) -> int:
    """Restore the newest checkpoint into `run` and return its step; 0 when there is none."""
    finished = _finished(checkpoints)
    if not finished:
        return 0
    newest = finished[-1]
    record = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    if record["settings"] != asdict(settings):
        raise SystemExit(f"{newest} belongs to another run ({record['settings']}); this one is {asdict(settings)}")
    weights = load_file(newest / "model.safetensors")
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.copy_(weights[name])
    state: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(newest / "optimiser.safetensors", "pt") as tensors:
        torch.set_rng_state(tensors.get_tensor("torch_rng"))
        for name in tensors.keys():  # noqa: SIM118 - a file handle, not a dictionary
            if name != "torch_rng":
                index, entry = name.split(".")
                state.setdefault(int(index), {})[entry] = tensors.get_tensor(name)
    parameters = run.optimiser.state_dict()["param_groups"][0]["params"]
    run.optimiser.load_state_dict({"state": state, "param_groups": [{**record["optimiser"], "params": parameters}]})
    run.schedule.load_state_dict({**run.schedule.state_dict(), **record["schedule"]})
    return int(record["step"])


def _parameters(model: Qwen3VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _finished(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob("step-*"))


def _with_image(asked: Question, rng: random.Random) -> list[dict[str, str]]:
    parts = [{"type": "image"}, {"type": "text", "text": asked.prompt}]
    return parts[::-1] if rng.random() < TEXT_FIRST_RATE else parts


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def main(arguments: Iterator[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m clients.demo.train",
        description="Train the demo's shapes model from scratch (about an hour on two CPU cores) and write a "
        "directory that transformers and vLLM load.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the finished model")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help=f"optimiser steps of {BATCH} questions")
    parser.add_argument("--scenes", type=int, default=SCENES, help="distinct pictures to draw questions from")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="weights and batches follow from it")
    parser.add_argument(
        "--resume", action="store_true", help=f"go on from the newest checkpoint (one every {CHECKPOINT_STEPS} steps)"
    )
    given = parser.parse_args(None if arguments is None else list(arguments))
    train(given.out, Settings(given.steps, given.seed, given.scenes), resume=given.resume)


if __name__ == "__main__":
    main()

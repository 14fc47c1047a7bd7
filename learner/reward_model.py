"""A reward model of the store's pairs: a scalar head on the same base, Bradley-Terry loss, as vLLM's pooling serves it.

Bradley and Terry 1952; Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 1: −log σ(r(x, y_w) − r(x, y_l)).
The reward is the head's value at the last token of the conversation as the chat template ends it, which is the token
that the pooling runner reads. Prompt and image run once for all answers of a group, as in all training here.

1. What was sampled is followed by the ids with which the template ends an assistant's turn, in place of the
   end-of-sequence token if there is one. They are given, because nothing is encoded here.
2. The exported model is whole: LoRA merged into the base, one further tensor `score.weight` (1, hidden).
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from learner.examples import Example
from learner.model import Policy
from learner.prefix import PrefixModel, Row
from learner.trainer import learning_rate
from learner.vision import Vision

FOLLOWS: Final = 0
"""A token id behind the last one, so that the last one is fed; it is never read."""
COPIED: Final = ("*.json", "*.jinja", "*.txt", "*.model")
"""Files of the base's directory that a server needs beside the weights."""


@dataclass(frozen=True, slots=True)
class Schedule:
    epochs: int
    batch_groups: int = 8
    peak_learning_rate: float = 2e-4
    warmup_share: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 0


class RewardModel:
    """The policy's hidden states under a linear head. `parameters` are LoRA and head."""

    def __init__(self, policy: Policy, vision: Vision, end: tuple[int, ...]) -> None:
        self._policy = policy
        self._vision = vision
        self._engine = PrefixModel(policy.model)
        self._end = end
        hidden = policy.base.model.get_input_embeddings().weight.shape[1]
        self.head = nn.Linear(hidden, 1, bias=False, device=policy.base.device)
        nn.init.zeros_(self.head.weight)

    @property
    def parameters(self) -> list[Tensor]:
        return [*self._policy.parameters.values(), self.head.weight]

    def rewards(self, examples: Sequence[Example]) -> Tensor:
        """One value for each answer, examples in order, (A,), in float32."""
        packed = self._engine.pack([self._row(example) for example in examples])
        last = torch.tensor(packed.lengths, device=self.head.weight.device).cumsum(0) - 1
        hidden = self._engine.hidden(packed)[last]
        values: Tensor = self.head(hidden.to(self.head.weight.dtype))
        return values[:, 0]

    def _row(self, example: Example) -> Row:
        features = tuple(self._vision.features(image) for image in example.images)
        return Row(example.prompt, features, tuple(self._closed(answer.token_ids) for answer in example.answers))

    def _closed(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        last = len(token_ids)
        while last and token_ids[last - 1] in self._policy.base.eos_ids:
            last -= 1
        return (*token_ids[:last], *self._end, FOLLOWS)

    def margins(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """r(chosen) − r(rejected) of every pair, and the pairs' weights. (N,) each."""
        rewards = self.rewards(examples)
        chosen: list[int] = []
        rejected: list[int] = []
        weights: list[float] = []
        first = 0
        for example in examples:
            chosen += [first + pair.chosen for pair in example.pairs]
            rejected += [first + pair.rejected for pair in example.pairs]
            weights += [pair.weight for pair in example.pairs]
            first += len(example.answers)
        return rewards[chosen] - rewards[rejected], rewards.new_tensor(weights)

    @torch.no_grad()
    def accuracy(self, examples: Sequence[Example], size: int = 8) -> float:
        """Share of the pairs whose chosen answer has the larger reward; nan without any."""
        right = total = 0
        for first in range(0, len(examples), size):
            margins, _ = self.margins(examples[first : first + size])
            right, total = right + int((margins > 0).sum()), total + len(margins)
        return right / total if total else math.nan

    def save(self, directory: Path, base_dir: Path) -> None:
        """Write the whole model as `Qwen3VLForSequenceClassification` and its like. The policy is merged for good."""
        model: Any = self._policy.model.merge_and_unload()
        model.score = self.head
        model.save_pretrained(directory)
        for pattern in COPIED:
            for file in base_dir.glob(pattern):
                if not (directory / file.name).exists():
                    shutil.copy(file, directory)
        file = directory / "config.json"
        config = json.loads(file.read_text())
        (architecture,) = config["architectures"]
        config["architectures"] = [f"{architecture.rpartition('For')[0]}ForSequenceClassification"]
        config |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        file.write_text(json.dumps(config, indent=2) + "\n")


def bradley_terry(margins: Tensor, weights: Tensor) -> Tensor:
    """Mean of −log σ(margin), weighted."""
    return -(weights * logsigmoid(margins)).sum() / weights.sum()


def train(
    model: RewardModel, examples: Sequence[Example], schedule: Schedule, tell: Callable[[int, int, float], None]
) -> None:
    """All epochs. `tell(step, steps, loss)` after each step; one that is not finite is left out."""
    optimizer = torch.optim.AdamW(model.parameters, lr=schedule.peak_learning_rate, weight_decay=0.0)
    rng = random.Random(schedule.seed)  # noqa: S311 - an order that can be repeated, not a secret
    batches: list[list[Example]] = []
    for _ in range(schedule.epochs):
        order = rng.sample(list(examples), len(examples))
        batches += [order[at : at + schedule.batch_groups] for at in range(0, len(order), schedule.batch_groups)]
    for step, batch in enumerate(batches):
        rate = learning_rate(step, len(batches), schedule.peak_learning_rate, schedule.warmup_share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = bradley_terry(*model.margins(batch))
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(model.parameters, schedule.max_grad_norm)
        if torch.isfinite(loss) and torch.isfinite(norm):
            optimizer.step()
        tell(step + 1, len(batches), float(loss.detach()))

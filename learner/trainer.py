"""Optimiser steps on a policy: losses of a batch, guards, clipping, schedule, and what a checkpoint holds.

A step whose loss or gradient is not finite, or whose answers have moved too far from the reference, is discarded and
says why; many in a row end the round.

In a team (`learner.team`) every rank makes the same step: each runs its own micro-batches, and what decides about the
step (loss, gradient, KL) and what is learned of annotators is exchanged before anybody moves.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from learner.batch import Collator
from learner.errors import RoundAborted
from learner.examples import Example
from learner.files import write_atomic
from learner.gradients import Backward
from learner.imitation import imitation
from learner.labels import mean_length
from learner.model import Policy
from learner.objectives import Batch
from learner.recipe import Recipe
from learner.references import References
from learner.settings import Settings
from learner.weighting import Reliabilities

MAX_DISCARDS_IN_A_ROW: Final = 5
KL_SLACK: Final = 10.0
"""A step's estimate of the KL may be this many times `max_kl`. It is that of a few answers, which training is about;
the round's own bound is checked on the whole vocabulary when it ends."""

logger = logging.getLogger(__name__)


def learning_rate(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up, then a cosine down to a tenth of the peak. `step` counts from 0."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(slots=True)
class Progress:
    """What a resumed round must know besides the tensors."""

    step: int = 0
    """Steps done, discarded ones included."""
    discarded: int = 0
    discarded_in_a_row: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every step."""
    groups: list[str] = field(default_factory=list)
    """Those that a step learned from."""
    annotators: list[str] = field(default_factory=list)
    """Those whose opinion a step learned from."""
    reliabilities: dict[str, float] = field(default_factory=dict)
    """Of annotators, where a weighting learns them."""
    rollouts: dict[str, int] = field(default_factory=dict)
    """How many prompts were answered anew (`groups`), and the answers that were learned from (`answers`)."""
    rollouts_skipped: dict[str, int] = field(default_factory=dict)
    """Prompts, answers and whole steps that went without, by reason."""


class Trainer:
    """The state of one round's training. `steps` is the length of the schedule."""

    def __init__(
        self,
        policy: Policy,
        collator: Collator,
        settings: Settings,
        steps: int,
        *,
        recipe: Recipe,
        references: References,
    ) -> None:
        self.policy = policy
        self._collator = collator
        self._settings = settings
        self._steps = steps
        self._recipe = recipe
        self._imitation = imitation(settings.beta)
        self._references = references
        self._reliabilities = Reliabilities()
        self._parameters = policy.parameters
        self._optimizer = torch.optim.AdamW(self._parameters.values(), lr=settings.learning_rate, weight_decay=0.0)
        self.progress = Progress()

    def step(self, examples: Sequence[Example]) -> dict[str, float]:
        """One optimiser step on these groups; returns its metrics. Raises `RoundAborted` after too many bad ones."""
        team = self._collator.team
        team.tell("step", examples, self._collator.acquaintance(examples))
        self._collator.complete(examples)
        self._collator.step = self.progress.step
        rate = learning_rate(self.progress.step, self._steps, self._settings.learning_rate, self._settings.warmup_share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        count = sum(example.count for example in examples)
        length = mean_length(examples)
        recipe = self._imitation if self.progress.step < self.imitated_steps else self._recipe
        measured = _Sums()
        backward = self._backward(examples)
        for part in self._collator.own_parts(examples):
            batch = self._collator.batch(part, length)
            loss = recipe.loss(batch, self._reliabilities, count)
            measured.add(batch, loss, recipe.beta)
            backward.run(loss, batch)
        measured = _Sums.merged(team.exchange(measured))
        if not math.isfinite(measured.loss):
            return self._discard("the loss is not finite")
        distance, bound = measured.means().get("kl", 0.0), KL_SLACK * self._settings.max_kl
        if distance > bound:
            return self._discard(f"KL to the reference is about {distance:.3g} nats a token, above {bound:g}")
        watched = backward.finish(teaches=measured.teaches)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.max_grad_norm))
        if not math.isfinite(norm):
            return self._discard("the gradient is not finite")
        self._optimizer.step()
        self._references.follow()
        self._reliabilities.gather(team.exchange(self._reliabilities.seen))
        self._reliabilities.settle()
        self.progress.reliabilities = self._reliabilities.values
        self._note(examples)
        metrics = {**measured.means(), **watched, **_fresh_reward(examples), "grad_norm": norm, "learning_rate": rate}
        self.progress.discarded_in_a_row = 0
        self.progress.history.append(metrics)
        self.progress.step += 1
        return metrics

    def _backward(self, examples: Sequence[Example]) -> Backward:
        settings = self._settings
        is_watched = settings.entanglement_every and self.progress.step % settings.entanglement_every == 0
        return Backward(
            self._parameters.values(),
            self._collator.team,
            normalized=settings.normalized_gradients,
            watched_pairs=sum(len(example.pairs) for example in examples) if is_watched else 0,
        )

    def _note(self, examples: Sequence[Example]) -> None:
        """Whom the tensors hold something of from now on; what is borrowed counts too."""
        groups = {example.origin or example.group for example in examples}
        borrowed = self._collator.lenders(examples)
        borrowed |= {answer.owner for example in examples for answer in example.answers if answer.owner}
        annotators = set[str]().union(*(example.annotators for example in examples))
        self.progress.groups = sorted(groups | borrowed | set(self.progress.groups))
        self.progress.annotators = sorted(annotators | set(self.progress.annotators))

    @property
    def imitated_steps(self) -> int:
        """The first so many of the schedule learn from what people found good alone; discarded ones count."""
        return round(self._steps * self._settings.sft_share)

    def believe(self, reliabilities: Mapping[str, float]) -> None:
        """Begin with what is known of annotators; a checkpoint that is restored later knows better."""
        self._reliabilities.values = dict(reliabilities)

    @property
    def reliabilities(self) -> Mapping[str, float]:
        """The least reliable annotators, for the report."""
        return self._reliabilities.report()

    def skip(self) -> dict[str, float]:
        """A step whose groups are all gone: no metrics."""
        self._collator.team.tell("skip")
        self.progress.step += 1
        return {}

    def _discard(self, reason: str) -> dict[str, float]:
        self._optimizer.zero_grad(set_to_none=True)
        self._reliabilities.forget_step()
        progress = self.progress
        progress.step += 1
        progress.discarded += 1
        progress.discarded_in_a_row += 1
        progress.reasons[reason] = progress.reasons.get(reason, 0) + 1
        logger.warning("step %d discarded: %s", progress.step, reason)
        if progress.discarded_in_a_row >= MAX_DISCARDS_IN_A_ROW:
            raise RoundAborted(f"{progress.discarded_in_a_row} steps in a row were discarded: {reason}")
        return {}

    # --- checkpoints --------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write the checkpoint of this moment, then remove the older ones."""
        tensors = {f"policy/{name}": value.detach().cpu().contiguous() for name, value in self._parameters.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = value.detach().cpu().contiguous()
        tensors |= {f"ema/{name}": value.cpu().contiguous() for name, value in self._references.tensors().items()}
        tensors["rng"] = torch.get_rng_state()
        about = {"progress": json.dumps({name: getattr(self.progress, name) for name in Progress.__slots__})}
        path = directory / f"step-{self.progress.step:08d}.safetensors"
        write_atomic(path, save_tensors(tensors, metadata=about))
        for older in directory.glob("step-*.safetensors"):
            if older.name < path.name:
                older.unlink()

    def restore(self, directory: Path) -> bool:
        """Continue from the newest checkpoint; False when there is none that can be read. Every rank reads it."""
        self._collator.team.tell("restore", directory)
        for path in sorted(directory.glob("step-*.safetensors"), reverse=True):
            try:
                with safe_open(path, "pt") as file:
                    progress = Progress(**json.loads(file.metadata()["progress"]))
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            except (SafetensorError, ValueError, KeyError, TypeError, OSError):
                logger.warning("checkpoint %s cannot be read", path.name)
                continue
            self._put_back(tensors)
            self.progress = progress
            self._reliabilities.values = progress.reliabilities
            return True
        return False

    def _put_back(self, tensors: Mapping[str, Tensor]) -> None:
        state: dict[Tensor, dict[str, Any]] = {}
        for name, parameter in self._parameters.items():
            parameter.data.copy_(tensors[f"policy/{name}"])
            kept = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"optimizer/{key}/{name}")
                if value is not None:
                    kept[key] = value.clone() if key == "step" else value.to(parameter.device)
            if kept:
                state[parameter] = kept
        self._optimizer.state.clear()
        self._optimizer.state.update(state)
        self._references.restore({key[4:]: value for key, value in tensors.items() if key.startswith("ema/")})
        torch.set_rng_state(tensors["rng"])


def _fresh_reward(examples: Sequence[Example]) -> dict[str, float]:
    """Mean reward of what was answered anew for this step: how good the policy is by now."""
    rewards = [one.reward for example in examples if example.origin for one in example.rewarded]
    return {"rollout_reward": sum(rewards) / len(rewards)} if rewards else {}


class _Sums:
    """Means of a step's metrics over its micro-batches, weighted by their examples."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.teaches = False
        """Whether there is a gradient."""
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    @torch.no_grad()
    def add(self, batch: Batch, loss: Tensor, beta: float) -> None:
        self.loss += float(loss)
        self.teaches |= loss.requires_grad
        delta = batch.delta
        totals = (batch.logprobs * batch.mask).sum(-1)
        own = torch.ones(len(totals), dtype=torch.bool, device=totals.device)
        own[batch.mismatched] = False
        lengths = batch.mask[own].sum(-1)
        self._put("length", lengths[lengths > 0].float())  # an idle rank's batch has an answer of no token
        if len(batch.chosen):
            margin = beta * batch.margin
            self._put("margin", margin)
            self._put("accuracy", (margin > 0).float())
            self._put("chosen_logprob", totals[batch.chosen])
            self._put("rejected_logprob", totals[batch.rejected])
        if len(batch.unpaired):
            signs = torch.where(batch.desirable, 1.0, -1.0)
            self._put("unpaired_margin", beta * delta[batch.unpaired] * signs)
        if batch.rewarded is not None:
            self._put("reward", batch.rewarded.rewards)
        # (log ratio)²/2 per token: a cheap estimate that stays finite for answers that became very unlikely
        ratio = ((batch.logprobs - batch.reference) * batch.mask)[batch.mask]
        self._put("kl", ratio.square() / 2)

    def _put(self, name: str, values: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())
        self._counts[name] = self._counts.get(name, 0) + values.numel()

    def means(self) -> dict[str, float]:
        return {"loss": self.loss, **{name: total / self._counts[name] for name, total in self._sums.items()}}

    @classmethod
    def merged(cls, shares: Sequence[_Sums]) -> _Sums:
        """Those of several ranks as one."""
        if len(shares) == 1:
            return shares[0]
        whole = cls()
        for share in shares:
            whole.loss += share.loss
            whole.teaches |= share.teaches
            for name, total in share._sums.items():
                whole._sums[name] = whole._sums.get(name, 0.0) + total
                whole._counts[name] = whole._counts.get(name, 0) + share._counts[name]
        return whole

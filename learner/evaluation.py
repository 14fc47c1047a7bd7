"""How a policy stands to the signals and to the base: the round's pre-check, and the upload's fingerprint.

This only stops a bad round early. Whether an adapter is served is the server's decision, on data that never
comes here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import torch
from torch import Tensor

from learner.batch import Collator
from learner.examples import Answer, Example
from learner.model import Policy
from learner.prefix import LOGITS_PER_CHUNK, PrefixModel
from learner.state import Standing
from server.wire.adapters import Fingerprint

FINGERPRINTS: Final = 8
ACCURACY_SLACK: Final = 0.02
"""Accuracy may fall this much when the margin grew; of few examples by their noise, where that is more."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer's per-token log-probabilities under policy and base, (tokens,) each."""

    group: str
    answer: Answer
    policy: Tensor
    base: Tensor

    @property
    def delta(self) -> float:
        return float((self.policy - self.base).sum())

    def over(self, part: tuple[bool, ...]) -> float:
        """Δ over these tokens alone; an empty part is the whole answer."""
        return float((self.policy - self.base)[torch.tensor(part)].sum()) if part else self.delta


@dataclass(frozen=True, slots=True)
class Evaluation:
    standing: Standing
    answers: tuple[Measured, ...]


@torch.no_grad()
def evaluate(
    policy: Policy, engine: PrefixModel, collator: Collator, examples: Sequence[Example], beta: float
) -> Evaluation:
    """Implicit rewards and KL to the base on these examples, by two forward passes without gradient.

    In a team every rank looks at its part, with rank 0's weights; each gets the whole result.
    """
    team = collator.team
    team.tell("evaluate", examples, collator.acquaintance(examples), beta)
    team.spread(policy.parameters.values())
    measured: list[Measured] = []
    agreements: list[tuple[float, float]] = []
    divergences: list[Tensor] = []
    for part in collator.own_parts(examples):
        packed = engine.pack(collator.rows(part))
        hidden = engine.hidden(packed)
        with policy.reference():
            base_hidden = engine.hidden(packed)
        if not part:
            continue  # the passes are what the other ranks needed
        size = max(1, LOGITS_PER_CHUNK // policy.base.vocabulary)
        chunks = zip(*(torch.split(values, size) for values in (hidden, base_hidden, packed.targets)), strict=True)
        pieces = [_compare(engine, *chunk) for chunk in chunks]
        own, base, divergence = (torch.cat(parts).cpu() for parts in zip(*pieces, strict=True))
        divergences.append(divergence)
        lengths = list(packed.lengths)
        values = iter(zip(torch.split(own, lengths), torch.split(base, lengths), strict=True))
        for example in part:
            answers = [Measured(example.group, answer, *next(values)) for answer in example.answers]
            for _ in range(len(collator.branches.of(example)) - len(answers)):
                next(values)  # borrowed, or behind a marker
            measured += answers
            agreements += _agreements(example, answers, beta)
    shares = team.exchange((measured, agreements, divergences))
    measured, agreements, divergences = (list(chain.from_iterable(kind)) for kind in zip(*shares, strict=True))
    ages, agreed = torch.tensor(agreements, dtype=torch.float64).reshape(-1, 2).unbind(1)
    weights = ages / ages.sum()
    standing = Standing(
        examples=len(agreements),
        accuracy=float(weights @ (agreed > 0).double()) if agreements else 0.0,
        margin=float(weights @ agreed) if agreements else 0.0,
        loss=float(weights @ (-agreed).sigmoid()) if agreements else 0.0,
        kl=float(torch.cat(divergences).mean()) if divergences else 0.0,
    )
    return Evaluation(standing, tuple(measured))


def _compare(engine: PrefixModel, own: Tensor, base: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the targets under both, and KL(own ‖ base) at each position."""
    log_own, log_base = engine.log_distributions(own), engine.log_distributions(base)
    divergence = (log_own.exp() * (log_own - log_base)).sum(-1)
    index = targets[:, None]
    return log_own.gather(-1, index)[:, 0], log_base.gather(-1, index)[:, 0], divergence


def _agreements(example: Example, answers: Sequence[Measured], beta: float) -> list[tuple[float, float]]:
    """(weight by age, βh) of every pair, ±βΔ of every thumb, βh of a rewarded group's best and worst.

    Positive: the policy agrees.
    """
    age = example.recency
    found = [
        (
            age if one.is_endorsed else 1.0,
            answers[one.chosen].over(one.chosen_part) - answers[one.rejected].over(one.rejected_part),
        )
        for one in example.pairs
    ]
    found += [(age, answers[one.answer].delta * (1 if one.desirable else -1)) for one in example.unpaired]
    ranked = sorted(example.rewarded, key=lambda one: one.reward)
    if ranked:
        found.append((1.0, answers[ranked[-1].answer].delta - answers[ranked[0].answer].delta))
    return [(weight, beta * value) for weight, value in found]


def objection(before: Standing, after: Standing, max_kl: float) -> str | None:
    """Why an adapter should not even be uploaded, or None."""
    if not all(math.isfinite(value) for value in (after.accuracy, after.margin, after.kl)):
        return "the policy's log-probabilities are not finite"
    if after.kl > max_kl:
        return f"KL to the base is {after.kl:.3f} nats a token, above {max_kl:g}"
    # Two standard errors of a share near one half. A parent that was taught most of the replay stands high on it, wrong
    # labels too.
    noise = 1 / math.sqrt(after.examples) if after.examples else 0.0
    if after.accuracy < before.accuracy - max(ACCURACY_SLACK, noise):
        return f"accuracy on the training signals fell from {before.accuracy:.3f} to {after.accuracy:.3f}"
    if after.accuracy <= before.accuracy and after.margin <= before.margin:
        return f"accuracy on the training signals stayed at {after.accuracy:.3f} and the margin did not grow"
    return None


def fingerprint(answers: Sequence[Measured], eos_ids: frozenset[int]) -> list[Fingerprint]:
    """Values that the server's probe must find again: those answers that the adapter changed most, a group each.

    Text tokens only: a final end-of-sequence token is not part of the text that the engine will be given.
    Answers typed by people and answers that were shown otherwise than sampled are left out.
    """
    usable = []
    for one in answers:
        ends = one.answer.finish_reason == "stop" and one.answer.token_ids[-1] in eos_ids
        count = len(one.answer.token_ids) - ends
        if count and one.answer.may_be_positive and not one.answer.is_human and not one.answer.owner:
            policy, base = float(one.policy[:count].sum()), float(one.base[:count].sum())
            usable.append(
                Fingerprint(group_id=one.group, candidate_id=one.answer.candidate, logprob=policy, base_logprob=base)
            )
    usable.sort(key=lambda item: (-abs(item.logprob - item.base_logprob), item.group_id, item.candidate_id))
    chosen: dict[str, Fingerprint] = {}
    for item in usable:
        if len(chosen) < FINGERPRINTS:
            chosen.setdefault(item.group_id, item)
    return list(chosen.values())

"""What was said of the answers of a batch, as tensors that point to them. Pure; answers stand in the rows' order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from learner.branches import Branches
from learner.examples import Example
from learner.objectives import Rewarded, View
from learner.prefix import padded
from learner.views import Seen


def indices(examples: Sequence[Example], branches: Branches, device: torch.device) -> Mapping[str, Tensor]:
    """Where each pair's and each thumb's answers stand among those of the batch."""
    chosen, rejected, gold, pair_weights, endorsed = [], [], [], [], []
    unpaired, desirable, unpaired_weights, mismatched = [], [], [], []
    may_be_positive: list[bool] = []
    drawn_by_base: list[bool] = []
    marked: list[int] = []
    first = 0
    for example in examples:
        for pair in example.pairs:
            chosen.append(first + pair.chosen)
            rejected.append(first + pair.rejected)
            gold.append(first + example.gold(pair))
            pair_weights.append(pair.weight * (example.recency if pair.is_endorsed else 1.0))
            endorsed.append(pair.is_endorsed)
        for thumb in example.unpaired:
            unpaired.append(first + thumb.answer)
            desirable.append(thumb.desirable)
            unpaired_weights.append(thumb.weight * example.recency)
        behind = {answer: first + len(example.answers) + at for at, answer in enumerate(branches.disliked(example))}
        marked += [-1 if one.desirable else behind.get(one.answer, -1) for one in example.unpaired]
        every = branches.of(example)
        may_be_positive += [answer.may_be_positive for _, answer in every]
        drawn_by_base += [answer.drawn_by_base for _, answer in every]
        first += len(every)
        if example.group in branches.partners:
            mismatched.append(first - 1)
    kinds: dict[str, tuple[list[int] | list[bool] | list[float], torch.dtype]] = {
        "may_be_positive": (may_be_positive, torch.bool),
        "drawn_by_base": (drawn_by_base, torch.bool),
        "chosen": (chosen, torch.long),
        "rejected": (rejected, torch.long),
        "gold": (gold, torch.long),
        "pair_weights": (pair_weights, torch.float32),
        "endorsed": (endorsed, torch.bool),
        "unpaired": (unpaired, torch.long),
        "desirable": (desirable, torch.bool),
        "unpaired_weights": (unpaired_weights, torch.float32),
        "mismatched": (mismatched, torch.long),
        "marked": (marked, torch.long),
    }
    return {name: torch.tensor(values, dtype=dtype, device=device) for name, (values, dtype) in kinds.items()}


def parts(examples: Sequence[Example], name: str, mask: Tensor) -> Tensor | None:
    """What of their answers the pairs are about, (N, T); None: of all pairs the whole."""
    told: list[tuple[bool, ...]] = [getattr(pair, name) for example in examples for pair in example.pairs]
    if not any(told):
        return None
    made = mask.new_ones((len(told), mask.shape[1]))
    for row, part in enumerate(told):
        if part:
            made[row, : len(part)] = torch.tensor(part, device=mask.device)
    return made


def rewarded(
    examples: Sequence[Example],
    branches: Branches,
    logprobs: Tensor,
    *,
    step_length: float,
    round_length: float,
    step: int,
) -> Rewarded | None:
    """The answers with rewards, and what the engine logged of them; None: there are none."""
    answers: list[int] = []
    groups: list[int] = []
    logged: list[Tensor] = []
    first = 0
    with_rewards = [example for example in examples if example.rewarded]
    for example in examples:
        for one in example.rewarded:
            answers.append(first + one.answer)
            groups.append(with_rewards.index(example))
            logged.append(torch.tensor(example.answers[one.answer].logprobs))
        first += len(branches.of(example))
    if not answers:
        return None
    sampled = torch.zeros(len(answers), logprobs.shape[1])
    for row, values in enumerate(logged):
        sampled[row, : len(values)] = values
    device = logprobs.device
    labels = [one for example in examples for one in example.rewarded]
    known = [dict(one.scores) for one in labels]
    scorers = sorted(set[str]().union(*known))
    return Rewarded(
        answers=torch.tensor(answers, device=device),
        groups=torch.tensor(groups, device=device),
        rewards=torch.tensor([one.reward for one in labels], device=device),
        weights=torch.tensor([one.weight for one in labels], device=device),
        sampled=sampled.to(device),
        step_length=step_length,
        round_length=round_length,
        step=step,
        scores={name: torch.tensor([one.get(name, math.nan) for one in known], device=device) for name in scorers},
        baseline=torch.tensor([one.is_baseline for one in labels], device=device),
    )


def views(
    examples: Sequence[Example], every: Sequence[Seen], values: Sequence[Tensor], reference: Sequence[Tensor]
) -> dict[str, View]:
    """One view after the other, `values` in the order of `every`; a view has one answer for each pair."""
    places: dict[str, list[int]] = {}
    pairs: dict[str, list[int]] = {}
    first_pair = dict(
        zip(
            (example.group for example in examples),
            accumulate((len(example.pairs) for example in examples), initial=0),
            strict=False,
        )
    )
    count = 0
    for seen in every:
        example = seen.example
        order = {answer.candidate: count + place for place, answer in enumerate(seen.answers)}
        first = first_pair[example.group]
        places.setdefault(seen.view, []).extend(order[example.answers[pair.chosen].candidate] for pair in example.pairs)
        pairs.setdefault(seen.view, []).extend(range(first, first + len(example.pairs)))
        count += len(order)
    made = {}
    for name, index in places.items():
        logprobs, mask = padded([values[place] for place in index])
        before, _ = padded([reference[place] for place in index])
        made[name] = View(logprobs, before, mask, torch.tensor(pairs[name], device=mask.device))
    return made


def mean_length(examples: Sequence[Example]) -> float:
    """Tokens of a rewarded answer in the mean; 1 without any."""
    lengths = [len(example.answers[one.answer].token_ids) for example in examples for one in example.rewarded]
    return sum(lengths) / len(lengths) if lengths else 1.0

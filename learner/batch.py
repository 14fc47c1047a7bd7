"""Examples → rows of a forward pass → the tensors that objectives are functions of.

A row that has thumbs carries one more branch for KTO: an answer of another group (`Partner`), run under this
group's prompt. The reference's log-probabilities are computed once and kept by group and answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.examples import Answer, Example
from learner.model import Policy
from learner.objectives import Batch
from learner.prefix import PrefixModel, Row, padded, split_rows
from learner.vision import Vision


@dataclass(frozen=True, slots=True)
class Partner:
    """An answer borrowed from another group."""

    group: str
    answer: Answer


def find_partners(examples: Sequence[Example]) -> dict[str, Partner]:
    """For each group with thumbs, the first answer of the next group that asks something else."""
    partners = {}
    for index, example in enumerate(examples):
        if example.unpaired:
            others = (examples[(index + step) % len(examples)] for step in range(1, len(examples)))
            for other in others:
                if (other.prompt, other.images) != (example.prompt, example.images):
                    partners[example.group] = Partner(other.group, other.answers[0])
                    break
    return partners


Key = tuple[str, str]
"""(group whose prompt it is, group and candidate of the answer)."""


class Collator:
    """Turns examples into batches. Holds the reference cache; `forget` clears a group out of it."""

    def __init__(self, policy: Policy, engine: PrefixModel, vision: Vision, max_tokens: int) -> None:
        self._policy = policy
        self._engine = engine
        self._vision = vision
        self._max_tokens = max_tokens
        self._reference: dict[Key, Tensor] = {}
        self.partners: dict[str, Partner] = {}

    def forget(self, groups: Iterable[str]) -> None:
        gone = set(groups)
        self.partners = {
            group: partner for group, partner in self.partners.items() if gone.isdisjoint((group, partner.group))
        }
        self._reference = {
            key: value
            for key, value in self._reference.items()
            if key[0] not in gone and key[1].partition("/")[0] not in gone
        }

    def split(self, examples: Sequence[Example]) -> list[list[Example]]:
        """Micro-batches that fit the budget of tokens; the longest rows come last."""
        ordered = sorted(examples, key=lambda example: (self._length(example), example.group))
        parts = split_rows([self._length(example) for example in ordered], self._max_tokens)
        return [[ordered[index] for index in part] for part in parts]

    def _length(self, example: Example) -> int:
        return len(example.prompt) + sum(len(answer.token_ids) - 1 for _, answer in self._branches(example))

    def _branches(self, example: Example) -> list[tuple[str, Answer]]:
        """(group the answer comes from, answer), the borrowed one last."""
        own = [(example.group, answer) for answer in example.answers]
        partner = self.partners.get(example.group)
        return [*own, (partner.group, partner.answer)] if partner else own

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        self._vision.load([image for example in examples for image in example.images])
        return [
            Row(
                example.prompt,
                tuple(self._vision.features(image) for image in example.images),
                tuple(answer.token_ids for _, answer in self._branches(example)),
            )
            for example in examples
        ]

    def _keys(self, examples: Sequence[Example]) -> list[Key]:
        return [
            (example.group, f"{owner}/{answer.candidate}")
            for example in examples
            for owner, answer in self._branches(example)
        ]

    @torch.no_grad()
    def prepare_reference(self, examples: Sequence[Example]) -> None:
        """Compute what is missing of the reference, for one micro-batch."""
        missing = [ex for ex in examples if any(key not in self._reference for key in self._keys([ex]))]
        if missing:
            with self._policy.reference():
                values = self._engine.logprobs(self.rows(missing))
            self._reference.update(zip(self._keys(missing), values, strict=True))

    def batch(self, examples: Sequence[Example]) -> Batch:
        """One forward pass of the policy over a micro-batch, with gradient."""
        self.prepare_reference(examples)
        logprobs, mask = padded(self._engine.logprobs(self.rows(examples)))
        reference, _ = padded([self._reference[key] for key in self._keys(examples)])
        return Batch(logprobs=logprobs, reference=reference, mask=mask, **self._indices(examples, logprobs.device))

    def _indices(self, examples: Sequence[Example], device: torch.device) -> Mapping[str, Tensor]:
        """Where each pair's and each thumb's answers stand among those of the batch."""
        chosen, rejected, pair_weights, endorsed = [], [], [], []
        unpaired, desirable, unpaired_weights, mismatched = [], [], [], []
        first = 0
        for example in examples:
            for pair in example.pairs:
                chosen.append(first + pair.chosen)
                rejected.append(first + pair.rejected)
                pair_weights.append(pair.weight)
                endorsed.append(pair.is_endorsed)
            for thumb in example.unpaired:
                unpaired.append(first + thumb.answer)
                desirable.append(thumb.desirable)
                unpaired_weights.append(thumb.weight)
            first += len(self._branches(example))
            if example.group in self.partners:
                mismatched.append(first - 1)
        kinds: dict[str, tuple[list[int] | list[bool] | list[float], torch.dtype]] = {
            "chosen": (chosen, torch.long),
            "rejected": (rejected, torch.long),
            "pair_weights": (pair_weights, torch.float32),
            "endorsed": (endorsed, torch.bool),
            "unpaired": (unpaired, torch.long),
            "desirable": (desirable, torch.bool),
            "unpaired_weights": (unpaired_weights, torch.float32),
            "mismatched": (mismatched, torch.long),
        }
        return {name: torch.tensor(values, dtype=dtype, device=device) for name, (values, dtype) in kinds.items()}

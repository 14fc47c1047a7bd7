"""Examples → rows of a forward pass → the tensors that objectives are functions of.

A row that has thumbs carries one more branch for KTO: an answer of another group (`Partner`), run under this
group's prompt. Where an objective asks for it, the chosen answers run once more under changed images (a view). The
log-probabilities under references that stay as they are, are computed once and kept by group and answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.augmentation import changed
from learner.examples import Answer, Example
from learner.objectives import Batch, Rewarded, View
from learner.prefix import PrefixModel, Row, padded, split_rows
from learner.references import References
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


OLD: Final = "previous"
"""The reference that is π_old of the policy gradients, for answers that were served."""
Key = tuple[str, str, str]
"""(reference, group whose prompt it is, group and candidate of the answer, in front of them the view's name)."""


class Collator:
    """Turns examples into batches. Holds the references' values; `forget` clears a group out of them."""

    def __init__(
        self,
        references: References,
        engine: PrefixModel,
        vision: Vision,
        max_tokens: int,
        *,
        others: Iterable[str] = (),
        views: Iterable[str] = (),
    ) -> None:
        """`others`: references that objectives ask for besides the main one; `views`: augmentations."""
        self._references = references
        self._engine = engine
        self._vision = vision
        self._others = sorted(others)
        self._views = sorted(views)
        self._max_tokens = max_tokens // (1 + len(self._views))
        self._kept: dict[Key, Tensor] = {}
        self.partners: dict[str, Partner] = {}
        self.round_length = 1.0
        """Mean tokens of the rewarded answers of the round."""

    def forget(self, groups: Iterable[str]) -> None:
        gone = set(groups)
        self.partners = {
            group: partner for group, partner in self.partners.items() if gone.isdisjoint((group, partner.group))
        }
        self._kept = {
            key: value
            for key, value in self._kept.items()
            if key[1] not in gone and key[2].rpartition(":")[2].partition("/")[0] not in gone
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
        own = [(answer.owner or example.group, answer) for answer in example.answers]
        partner = self.partners.get(example.group)
        return [*own, (partner.group, partner.answer)] if partner else own

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        self._vision.load([image for example in examples for image in example.images])
        return [
            self._row(example, example.images, [answer for _, answer in self._branches(example)])
            for example in examples
        ]

    def _row(self, example: Example, images: Sequence[str], answers: Iterable[Answer]) -> Row:
        features = tuple(self._vision.features(image) for image in images)
        return Row(example.prompt, features, tuple(answer.token_ids for answer in answers))

    def _view_rows(self, examples: Sequence[Example]) -> list[Row]:
        """The chosen answers under changed images, view by view."""
        seen = [(view, example) for view in self._views for example in examples if _seen_again(example)]
        self._vision.load([changed(view, image) for view, example in seen for image in example.images])
        return [
            self._row(example, [changed(view, image) for image in example.images], _chosen(example))
            for view, example in seen
        ]

    def _keys(self, reference: str, examples: Sequence[Example]) -> list[Key]:
        """In the order in which `rows` and `_view_rows` have their answers."""
        plain = [
            (reference, example.group, f"{owner}/{answer.candidate}")
            for example in examples
            for owner, answer in self._branches(example)
        ]
        return plain + [
            (reference, example.group, f"{view}:{answer.owner or example.group}/{answer.candidate}")
            for view in self._views
            for example in examples
            if _seen_again(example)
            for answer in _chosen(example)
        ]

    @torch.no_grad()
    def prepare_reference(self, examples: Sequence[Example]) -> None:
        """Compute what is missing of the references, for one micro-batch."""
        for name in dict.fromkeys(map(self._references.resolve, [self._references.main, *self._others])):
            changes = name == "ema"
            wanted = [one for one in examples if name in self._needed(one)]
            missing = [
                one for one in wanted if changes or any(key not in self._kept for key in self._keys(name, [one]))
            ]
            if missing:
                with self._references.standing_in(name):
                    values = self._engine.logprobs([*self.rows(missing), *self._view_rows(missing)])
                self._kept.update(zip(self._keys(name, missing), values, strict=True))

    def _needed(self, example: Example) -> set[str]:
        """The references whose values are computed for it: of a fresh answer, what drew it is known (`_other`)."""
        others = [name for name in self._others if name != OLD or not example.origin]
        return {self._references.resolve(name) for name in (self._references.main, *others)}

    def _other(self, name: str, examples: Sequence[Example], device: torch.device) -> list[Tensor]:
        """An answer's values under a reference that an objective asks for.

        A fresh answer was drawn by the policy of a moment ago, which is its π_old: the engine logged its values.
        """
        values: list[Tensor] = []
        for one in examples:
            if name == OLD and one.origin:
                values += [torch.tensor(answer.logprobs, device=device) for answer in one.answers]
            else:
                values += self._reference(name, [one])[: len(self._branches(one))]
        return values

    def _reference(self, name: str, examples: Sequence[Example]) -> list[Tensor]:
        return [self._kept[key] for key in self._keys(self._references.resolve(name), examples)]

    def batch(self, examples: Sequence[Example], step_length: float | None = None) -> Batch:
        """One forward pass of the policy over a micro-batch, with gradient.

        `step_length`: mean tokens of the rewarded answers of the whole step; None: these examples are the step.
        """
        self.prepare_reference(examples)
        rows = self.rows(examples)
        answers = sum(len(row.answers) for row in rows)
        values = self._engine.logprobs([*rows, *self._view_rows(examples)])
        main = self._reference(self._references.main, examples)
        logprobs, mask = padded(values[:answers])
        length = mean_length(examples) if step_length is None else step_length
        return Batch(
            logprobs=logprobs,
            reference=padded(main[:answers])[0],
            mask=mask,
            pair_annotators=tuple(pair.annotator for example in examples for pair in example.pairs),
            unpaired_annotators=tuple(thumb.annotator for example in examples for thumb in example.unpaired),
            rewarded=self._rewarded(examples, logprobs, length),
            references={name: padded(self._other(name, examples, mask.device))[0] for name in self._others},
            views=self._view_batches(examples, values[answers:], main[answers:]),
            **self._indices(examples, logprobs.device),
        )

    def _view_batches(
        self, examples: Sequence[Example], values: Sequence[Tensor], reference: Sequence[Tensor]
    ) -> dict[str, View]:
        """One view after the other, in the order of `_view_rows`; a view has one answer for each pair."""
        pairs: list[int] = []
        places: list[int] = []
        first_pair = answers = 0
        for example in examples:
            if _seen_again(example):
                order = {answer.candidate: answers + place for place, answer in enumerate(_chosen(example))}
                places += [order[example.answers[pair.chosen].candidate] for pair in example.pairs]
                pairs += range(first_pair, first_pair + len(example.pairs))
                answers += len(order)
            first_pair += len(example.pairs)
        made = {}
        for number, name in enumerate(self._views if pairs else ()):
            part = slice(number * answers, (number + 1) * answers)
            logprobs, mask = padded(values[part])
            index = torch.tensor(places, device=mask.device)
            of_pairs = torch.tensor(pairs, device=mask.device)
            made[name] = View(logprobs[index], padded(reference[part])[0][index], mask[index], of_pairs)
        return made

    def _rewarded(self, examples: Sequence[Example], logprobs: Tensor, step_length: float) -> Rewarded | None:
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
            first += len(self._branches(example))
        if not answers:
            return None
        sampled = torch.zeros(len(answers), logprobs.shape[1])
        for row, values in enumerate(logged):
            sampled[row, : len(values)] = values
        device = logprobs.device
        labels = [one for example in examples for one in example.rewarded]
        return Rewarded(
            answers=torch.tensor(answers, device=device),
            groups=torch.tensor(groups, device=device),
            rewards=torch.tensor([one.reward for one in labels], device=device),
            weights=torch.tensor([one.weight for one in labels], device=device),
            sampled=sampled.to(device),
            step_length=step_length,
            round_length=self.round_length,
        )

    def _indices(self, examples: Sequence[Example], device: torch.device) -> Mapping[str, Tensor]:
        """Where each pair's and each thumb's answers stand among those of the batch."""
        chosen, rejected, pair_weights, endorsed = [], [], [], []
        unpaired, desirable, unpaired_weights, mismatched = [], [], [], []
        may_be_positive: list[bool] = []
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
            branches = self._branches(example)
            may_be_positive += [answer.may_be_positive for _, answer in branches]
            first += len(branches)
            if example.group in self.partners:
                mismatched.append(first - 1)
        kinds: dict[str, tuple[list[int] | list[bool] | list[float], torch.dtype]] = {
            "may_be_positive": (may_be_positive, torch.bool),
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


def _seen_again(example: Example) -> bool:
    """Whether it has a part in views: images, and pairs."""
    return bool(example.images and example.pairs)


def _chosen(example: Example) -> list[Answer]:
    """The answers that some pair prefers, each once."""
    return [example.answers[index] for index in sorted({pair.chosen for pair in example.pairs})]


def mean_length(examples: Sequence[Example]) -> float:
    """Tokens of a rewarded answer in the mean; 1 without any."""
    lengths = [len(example.answers[one.answer].token_ids) for example in examples for one in example.rewarded]
    return sum(lengths) / len(lengths) if lengths else 1.0

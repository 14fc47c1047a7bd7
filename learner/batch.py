"""Examples → rows of a forward pass → the tensors that objectives are functions of.

A row that has thumbs carries one more branch for KTO: an answer of another group (`Partner`), run under this
group's prompt. Where an objective asks for it, the chosen answers run once more under changed images (a view). The
log-probabilities under references that stay as they are, are computed once and kept by group and answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from learner.augmentation import changed
from learner.examples import Answer, Example
from learner.objectives import Batch, Rewarded, View
from learner.prefix import PrefixModel, Row, padded, split_rows
from learner.references import References
from learner.team import Team, portions
from learner.vision import Vision

IDLE: Final = Row((0,), (), ((0,),))
"""What a rank runs that has no example left while others have."""


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
        team: Team | None = None,
    ) -> None:
        """`others`: references that objectives ask for besides the main one; `views`: augmentations."""
        self.team = team or Team()
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
        self.team.tell("forget", gone)
        self.partners = {
            group: partner for group, partner in self.partners.items() if gone.isdisjoint((group, partner.group))
        }
        self._kept = {
            key: value
            for key, value in self._kept.items()
            if key[1] not in gone and key[2].rpartition(":")[2].partition("/")[0] not in gone
        }

    def split(self, examples: Sequence[Example], ranks: int = 1) -> list[list[Example]]:
        """Micro-batches that fit the budget of tokens of so many ranks; the longest rows come last."""
        ordered = sorted(examples, key=lambda example: (self._length(example), example.group))
        parts = split_rows([self._length(example) for example in ordered], ranks * self._max_tokens)
        return [[ordered[index] for index in part] for part in parts]

    def own_parts(self, examples: Sequence[Example]) -> list[list[Example]]:
        """The micro-batches of this rank, as many as each has: where there are fewer, the last ones are empty."""
        shares = portions([self._length(example) for example in examples], self.team.size)
        parts = [self.split([examples[index] for index in share]) for share in shares]
        own = parts[self.team.rank]
        return own + [[] for _ in range(max(map(len, parts)) - len(own))]

    def acquaintance(self, examples: Sequence[Example]) -> tuple[dict[str, Partner], float]:
        """What `acquaint` must be told on another rank before it works on these examples."""
        groups = [example.group for example in examples]
        return {group: self.partners[group] for group in groups if group in self.partners}, self.round_length

    def acquaint(self, acquaintance: tuple[dict[str, Partner], float]) -> None:
        self.partners, self.round_length = acquaintance

    def _length(self, example: Example) -> int:
        return len(example.prompt) + sum(len(answer.token_ids) - 1 for _, answer in self._branches(example))

    def _branches(self, example: Example) -> list[tuple[str, Answer]]:
        """(group the answer comes from, answer), the borrowed one last."""
        own = [(answer.owner or example.group, answer) for answer in example.answers]
        partner = self.partners.get(example.group)
        return [*own, (partner.group, partner.answer)] if partner else own

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """At least one."""
        if not examples:
            return [IDLE]
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

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(map(self._references.resolve, [self._references.main, *self._others])))

    def prepare_reference(self, examples: Sequence[Example]) -> None:
        """Compute what is missing of the references that stay as they are, on all ranks together."""
        self.team.tell("prepare", examples, self.acquaintance(examples))
        self.complete(examples)

    def complete(self, examples: Sequence[Example]) -> None:
        """`prepare_reference` within what all ranks do already. Afterwards each holds the same values."""
        for name in self._names:
            missing = self._missing(name, examples) if name != "ema" else []
            if not missing:
                continue
            found: dict[Key, Tensor] = {}
            for part in self.own_parts(missing):
                found |= self._measured(name, part)
            for values in self.team.exchange({key: value.cpu() for key, value in found.items()}):
                self._kept.update({key: value.to(self._engine.device) for key, value in values.items()})

    @torch.no_grad()
    def _measured(self, name: str, examples: Sequence[Example]) -> dict[Key, Tensor]:
        with self._references.standing_in(name):
            values = self._engine.logprobs([*self.rows(examples), *self._view_rows(examples)])
        return dict(zip(self._keys(name, examples), values, strict=True)) if examples else {}

    def _measure_missing(self, examples: Sequence[Example]) -> None:
        """For a micro-batch that is about to be trained on: what changes with every step, and what else is missing."""
        for name in self._names:
            missing = self._missing(name, examples)
            if missing or name == "ema":
                self._kept.update(self._measured(name, missing))

    def _missing(self, name: str, examples: Sequence[Example]) -> list[Example]:
        """Those without a value that holds; a moving average has none."""
        return [
            one
            for one in examples
            if name in self._needed(one)
            and (name == "ema" or any(key not in self._kept for key in self._keys(name, [one])))
        ]

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
        """One forward pass of the policy over a micro-batch, with gradient; all ranks run theirs at the same time.

        `step_length`: mean tokens of the rewarded answers of the whole step; None: these examples are the step.
        """
        self._measure_missing(examples)
        batch = self._batch(examples, step_length) if examples else self._idle()
        return replace(batch, shared_point=self._shared_point(batch)) if self.team.size > 1 else batch

    def _shared_point(self, batch: Batch) -> Tensor:
        """KTO's z over the micro-batches of all ranks, as one process would have it in a batch of all of them."""
        mismatched = batch.delta.detach()[batch.mismatched].double()
        total = torch.stack([mismatched.sum(), mismatched.new_tensor(len(mismatched))])
        self.team.add_up(total)
        return (total[0] / total[1].clamp(min=1)).clamp(min=0).to(batch.logprobs.dtype)

    def _idle(self) -> Batch:
        """Of no example: one answer outside of every mask."""
        logprobs, mask = padded(self._engine.logprobs([IDLE]))
        none = torch.zeros_like(mask)
        return Batch(
            logprobs=logprobs,
            reference=logprobs.detach(),
            mask=none,
            pair_annotators=(),
            unpaired_annotators=(),
            rewarded=None,
            references={},
            views={},
            **self._indices([], logprobs.device),
        )

    def _batch(self, examples: Sequence[Example], step_length: float | None) -> Batch:
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
                pair_weights.append(pair.weight * (example.recency if pair.is_endorsed else 1.0))
                endorsed.append(pair.is_endorsed)
            for thumb in example.unpaired:
                unpaired.append(first + thumb.answer)
                desirable.append(thumb.desirable)
                unpaired_weights.append(thumb.weight * example.recency)
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

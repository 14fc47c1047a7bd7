"""Examples → rows of a forward pass → the tensors that objectives are functions of.

A row that has thumbs carries one more branch for KTO: an answer of another group (`Partner`), run under this
group's prompt. Where an objective asks for it, the undesirable answers are branches once more, behind a marker of their
class (C-RLFT), and the chosen answers run once more under other images (a view). The log-probabilities under
references that stay as they are, are computed once and kept by group and answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Final, NamedTuple

import torch
from torch import Tensor

from learner.dropout import Dropout
from learner.examples import Answer, Example
from learner.objectives import Batch, Rewarded, View
from learner.prefix import PrefixModel, Row, padded, split_rows
from learner.references import References
from learner.team import Team, portions
from learner.views import Seen, Similar, seen_again
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


class Key(NamedTuple):
    """Of an answer's values under a reference."""

    reference: str
    group: str
    """Whose prompt it is."""
    owner: str
    candidate: str
    images: tuple[str, ...] = ()
    """Under which it runs, where they are others than the prompt's."""
    lenders: tuple[str, ...] = ()
    """The groups that those are of."""


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """What a rank must know of the round before it works on some examples."""

    partners: dict[str, Partner]
    round_length: float
    similar: dict[str, Similar]
    level: int


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
        statistics: Iterable[str] = (),
        marker: Sequence[int] | None = None,
        dropout: Dropout | None = None,
        team: Team | None = None,
    ) -> None:
        """`others`: references that objectives ask for besides the main one; `views`: augmentations; `statistics`:
        names of what they ask for of the whole distribution; `marker`: token ids behind which undesirable answers run
        once more, none for the prompt's first one; None: they do not.
        """
        self.team = team or Team()
        self._references = references
        self._engine = engine
        self._vision = vision
        self._others = sorted(others)
        self._views = sorted(views)
        self._statistics = frozenset(statistics)
        self._marker = marker
        self._dropout = dropout
        self._max_tokens = max_tokens // (1 + len(self._views))
        self._kept: dict[Key, Tensor] = {}
        self.partners: dict[str, Partner] = {}
        self.round_length = 1.0
        """Mean tokens of the rewarded answers of the round."""
        self.step = 0
        """How many optimiser steps there were."""
        self.similar: dict[str, Similar] = {}
        """For the images of the round, what the view `retrieve` shows instead."""
        self.level = 0
        """How much weaker than at first changed images are changed."""

    def forget(self, groups: Iterable[str]) -> None:
        gone = set(groups)
        self.team.tell("forget", gone)
        self.partners = {
            group: partner for group, partner in self.partners.items() if gone.isdisjoint((group, partner.group))
        }
        self.similar = {image: one for image, one in self.similar.items() if one.group not in gone}
        self._kept = {
            key: value for key, value in self._kept.items() if gone.isdisjoint((key.group, key.owner, *key.lenders))
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

    def acquaintance(self, examples: Sequence[Example]) -> Acquaintance:
        """What `acquaint` must be told on another rank before it works on these examples."""
        groups = [example.group for example in examples]
        images = [image for example in examples for image in example.images]
        return Acquaintance(
            {group: self.partners[group] for group in groups if group in self.partners},
            self.round_length,
            {image: self.similar[image] for image in images if image in self.similar},
            self.level,
        )

    def acquaint(self, told: Acquaintance) -> None:
        self.partners, self.round_length = told.partners, told.round_length
        self.similar, self.level = told.similar, told.level

    def lenders(self, examples: Sequence[Example]) -> set[str]:
        """The groups that these borrow an answer or an image from."""
        partners = {self.partners[one.group].group for one in examples if one.group in self.partners}
        return partners.union(*(seen.lenders for seen in self._seen_again(examples)))

    def _length(self, example: Example) -> int:
        return len(example.prompt) + sum(len(answer.token_ids) - 1 for _, answer in self._branches(example))

    def _branches(self, example: Example) -> list[tuple[str, Answer]]:
        """(group the answer comes from, answer): its own, those behind the class's marker, and the borrowed one."""
        marked = (self._marked(example.answers[index], example) for index in self._disliked(example))
        own = [(answer.owner or example.group, answer) for answer in (*example.answers, *marked)]
        partner = self.partners.get(example.group)
        return [*own, (partner.group, partner.answer)] if partner else own

    def branches(self, example: Example) -> int:
        """How many answers its row has."""
        return len(self._branches(example))

    def _disliked(self, example: Example) -> list[int]:
        """The answers that run behind the class's marker too: undesirable ones that may be imitated at all."""
        if self._marker is None:
            return []
        disliked = {thumb.answer for thumb in example.unpaired if not thumb.desirable}
        return [index for index in sorted(disliked) if example.answers[index].may_be_positive]

    def _marked(self, answer: Answer, example: Example) -> Answer:
        first = next(token for token in example.prompt if token != self._engine.image_token_id)
        marker = tuple(self._marker or (first,))
        tokens = (*marker, *answer.token_ids)
        return replace(answer, candidate=f"{answer.candidate}#marked", token_ids=tokens, condition=len(marker))

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

    def _seen_again(self, examples: Sequence[Example]) -> list[Seen]:
        return seen_again(self._views, examples, self.similar, self.level)

    def _view_rows(self, examples: Sequence[Example]) -> list[Row]:
        """The chosen answers under other images, view by view."""
        every = self._seen_again(examples)
        self._vision.load([image for seen in every for image in seen.images])
        return [self._row(seen.example, seen.images, seen.answers) for seen in every]

    def _keys(self, reference: str, examples: Sequence[Example]) -> list[Key]:
        """In the order in which `rows` and `_view_rows` have their answers."""
        plain = [
            Key(reference, example.group, owner, answer.candidate)
            for example in examples
            for owner, answer in self._branches(example)
        ]
        return plain + [
            Key(reference, group, answer.owner or group, answer.candidate, seen.images, seen.lenders)
            for seen in self._seen_again(examples)
            for group in [seen.example.group]
            for answer in seen.answers
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
        self._reference_hidden([IDLE])  # a sharded base needs every rank in every pass
        logprobs, mask = padded(self._engine.logprobs([IDLE]))
        self._dropped([IDLE], [])
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
            statistics={},
            **self._indices([], logprobs.device),
        )

    def _batch(self, examples: Sequence[Example], step_length: float | None) -> Batch:
        rows = self.rows(examples)
        answers = sum(len(row.answers) for row in rows)
        reference_hidden = self._reference_hidden(rows)
        packed = self._engine.pack([*rows, *self._view_rows(examples)])
        hidden = self._engine.hidden(packed)
        values = self._engine.logprobs_at(hidden, packed)
        main = self._reference(self._references.main, examples)
        logprobs, mask = padded(values[:answers])
        conditions = [answer.condition for example in examples for _, answer in self._branches(example)]
        places = torch.arange(mask.shape[1], device=mask.device)
        mask &= places >= torch.tensor(conditions, device=mask.device)[:, None]
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
            statistics=self._statistics_of(hidden, reference_hidden, packed.lengths[:answers]),
            dropped=self._dropped(rows, examples),
            chosen_mask=_parts(examples, "chosen_part", mask),
            rejected_mask=_parts(examples, "rejected_part", mask),
            **self._indices(examples, logprobs.device),
        )

    def _dropped(self, rows: Sequence[Row], examples: Sequence[Example]) -> Tensor | None:
        """Seeded by the groups, so that a resumed round sees the same; all ranks make these passes together."""
        seed = " ".join(example.group for example in examples)
        return None if self._dropout is None else self._dropout.logprobs(rows, seed)

    @torch.no_grad()
    def _reference_hidden(self, rows: Sequence[Row]) -> Tensor | None:
        """Where a statistic is about the main reference: its hidden states. They are too large to be kept."""
        if self._statistics.isdisjoint({"reference_kl", "end_ratio"}):
            return None
        with self._references.standing_in(self._references.main):
            return self._engine.hidden(self._engine.pack(rows))

    def _statistics_of(self, hidden: Tensor, reference: Tensor | None, lengths: Sequence[int]) -> dict[str, Tensor]:
        """Of the plain answers, which come first; views have none."""
        own = hidden[: sum(lengths)]
        found = {}
        if "entropy" in self._statistics:
            found["entropy"] = self._engine.entropy(own)
        inside = partial(self._references.standing_in, self._references.main)
        if reference is not None and "reference_kl" in self._statistics:
            found["reference_kl"] = self._engine.reference_kl(own, reference, inside)
        if reference is not None and "end_ratio" in self._statistics:
            found["end_ratio"] = self._engine.ratio_of(self._references.eos_ids, own, reference, inside)
        return {name: padded(torch.split(values, list(lengths)))[0] for name, values in found.items()}

    def _view_batches(
        self, examples: Sequence[Example], values: Sequence[Tensor], reference: Sequence[Tensor]
    ) -> dict[str, View]:
        """One view after the other, in the order of `_view_rows`; a view has one answer for each pair."""
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
        for seen in self._seen_again(examples):
            example = seen.example
            order = {answer.candidate: count + place for place, answer in enumerate(seen.answers)}
            first = first_pair[example.group]
            places.setdefault(seen.view, []).extend(
                order[example.answers[pair.chosen].candidate] for pair in example.pairs
            )
            pairs.setdefault(seen.view, []).extend(range(first, first + len(example.pairs)))
            count += len(order)
        made = {}
        for name, index in places.items():
            logprobs, mask = padded([values[place] for place in index])
            before, _ = padded([reference[place] for place in index])
            made[name] = View(logprobs, before, mask, torch.tensor(pairs[name], device=mask.device))
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
        known = [dict(one.scores) for one in labels]
        scorers = sorted(set[str]().union(*known))
        return Rewarded(
            answers=torch.tensor(answers, device=device),
            groups=torch.tensor(groups, device=device),
            rewards=torch.tensor([one.reward for one in labels], device=device),
            weights=torch.tensor([one.weight for one in labels], device=device),
            sampled=sampled.to(device),
            step_length=step_length,
            round_length=self.round_length,
            step=self.step,
            scores={name: torch.tensor([one.get(name, math.nan) for one in known], device=device) for name in scorers},
            baseline=torch.tensor([one.is_baseline for one in labels], device=device),
        )

    def _indices(self, examples: Sequence[Example], device: torch.device) -> Mapping[str, Tensor]:
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
                pair_weights.append(pair.weight)
                endorsed.append(pair.is_endorsed)
            for thumb in example.unpaired:
                unpaired.append(first + thumb.answer)
                desirable.append(thumb.desirable)
                unpaired_weights.append(thumb.weight)
            behind = {answer: first + len(example.answers) + at for at, answer in enumerate(self._disliked(example))}
            marked += [-1 if one.desirable else behind.get(one.answer, -1) for one in example.unpaired]
            branches = self._branches(example)
            may_be_positive += [answer.may_be_positive for _, answer in branches]
            drawn_by_base += [answer.drawn_by_base for _, answer in branches]
            first += len(branches)
            if example.group in self.partners:
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


def _parts(examples: Sequence[Example], name: str, mask: Tensor) -> Tensor | None:
    """What of their answers the pairs are about, (N, T); None: of all pairs the whole."""
    parts: list[tuple[bool, ...]] = [getattr(pair, name) for example in examples for pair in example.pairs]
    if not any(parts):
        return None
    made = mask.new_ones((len(parts), mask.shape[1]))
    for row, part in enumerate(parts):
        if part:
            made[row, : len(part)] = torch.tensor(part, device=mask.device)
    return made


def mean_length(examples: Sequence[Example]) -> float:
    """Tokens of a rewarded answer in the mean; 1 without any."""
    lengths = [len(example.answers[one.answer].token_ids) for example in examples for one in example.rewarded]
    return sum(lengths) / len(lengths) if lengths else 1.0

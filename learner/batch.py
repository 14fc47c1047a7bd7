"""Examples → rows of a forward pass → the tensors that objectives are functions of.

A row that has thumbs carries one more branch for KTO: an answer of another group (`Partner`), run under this
group's prompt. Where an objective asks for it, the undesirable answers are branches once more, behind a marker of their
class (C-RLFT), and the chosen answers run once more under other images (a view). The log-probabilities under
references that stay as they are, are computed once and kept by group and answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor

from learner.branches import Branches, Partner
from learner.dropout import Dropout
from learner.examples import Answer, Example
from learner.labels import indices, mean_length, parts, rewarded, views
from learner.objectives import Batch
from learner.prefix import PrefixModel, Row, padded, split_rows
from learner.references import References
from learner.team import Team, portions
from learner.views import Seen, Similar, seen_again
from learner.vision import Vision

IDLE: Final = Row((0,), (), ((0,),))
"""What a rank runs that has no example left while others have."""


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
        self.branches = Branches(engine.image_token_id, marker)
        self._dropout = dropout
        self._max_tokens = max_tokens // (1 + len(self._views))
        self._kept: dict[Key, Tensor] = {}
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
        partners = self.branches.partners.items()
        self.branches.partners = {name: one for name, one in partners if gone.isdisjoint((name, one.group))}
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
        partners = self.branches.partners
        groups = [example.group for example in examples]
        images = [image for example in examples for image in example.images]
        return Acquaintance(
            {group: partners[group] for group in groups if group in partners},
            self.round_length,
            {image: self.similar[image] for image in images if image in self.similar},
            self.level,
        )

    def acquaint(self, told: Acquaintance) -> None:
        self.branches.partners, self.round_length = told.partners, told.round_length
        self.similar, self.level = told.similar, told.level

    def lenders(self, examples: Sequence[Example]) -> set[str]:
        """The groups that these borrow an answer or an image from."""
        partners = self.branches.partners
        borrowed = {partners[one.group].group for one in examples if one.group in partners}
        return borrowed.union(*(seen.lenders for seen in self._seen_again(examples)))

    def _length(self, example: Example) -> int:
        return len(example.prompt) + sum(len(answer.token_ids) - 1 for _, answer in self.branches.of(example))

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """At least one."""
        if not examples:
            return [IDLE]
        self._vision.load([image for example in examples for image in example.images])
        return [
            self._row(example, example.images, [answer for _, answer in self.branches.of(example)])
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
            for owner, answer in self.branches.of(example)
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
                values += self._reference(name, [one])[: len(self.branches.of(one))]
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
            **indices([], self.branches, logprobs.device),
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
        conditions = [answer.condition for example in examples for _, answer in self.branches.of(example)]
        places = torch.arange(mask.shape[1], device=mask.device)
        mask &= places >= torch.tensor(conditions, device=mask.device)[:, None]
        return Batch(
            logprobs=logprobs,
            reference=padded(main[:answers])[0],
            mask=mask,
            pair_annotators=tuple(pair.annotator for example in examples for pair in example.pairs),
            unpaired_annotators=tuple(thumb.annotator for example in examples for thumb in example.unpaired),
            rewarded=rewarded(
                examples,
                self.branches,
                logprobs,
                step_length=mean_length(examples) if step_length is None else step_length,
                round_length=self.round_length,
                step=self.step,
            ),
            references={name: padded(self._other(name, examples, mask.device))[0] for name in self._others},
            views=views(examples, self._seen_again(examples), values[answers:], main[answers:]),
            statistics=self._statistics_of(hidden, reference_hidden, packed.lengths[:answers]),
            dropped=self._dropped(rows, examples),
            chosen_mask=parts(examples, "chosen_part", mask),
            rejected_mask=parts(examples, "rejected_part", mask),
            **indices(examples, self.branches, logprobs.device),
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

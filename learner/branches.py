"""What branches off a group's prompt in a row: its own answers, those behind a class's marker, and a borrowed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from learner.examples import Answer, Example


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


@dataclass(slots=True)
class Branches:
    """Of every example of a round, for as long as its partners stay what they are."""

    image_token_id: int | None
    marker: Sequence[int] | None = None
    """Token ids behind which undesirable answers run once more; none: the prompt's first one; None: they do not."""
    partners: dict[str, Partner] = field(default_factory=dict)
    """By group."""

    def of(self, example: Example) -> list[tuple[str, Answer]]:
        """(group the answer comes from, answer): its own, those behind the class's marker, and the borrowed one."""
        marked = (self._marked(example.answers[index], example) for index in self.disliked(example))
        own = [(answer.owner or example.group, answer) for answer in (*example.answers, *marked)]
        partner = self.partners.get(example.group)
        return [*own, (partner.group, partner.answer)] if partner else own

    def disliked(self, example: Example) -> list[int]:
        """The answers that run behind the class's marker too: undesirable ones that may be imitated at all."""
        if self.marker is None:
            return []
        disliked = {thumb.answer for thumb in example.unpaired if not thumb.desirable}
        return [index for index in sorted(disliked) if example.answers[index].may_be_positive]

    def _marked(self, answer: Answer, example: Example) -> Answer:
        first = next(token for token in example.prompt if token != self.image_token_id)
        marker = tuple(self.marker or (first,))
        tokens = (*marker, *answer.token_ids)
        return replace(answer, candidate=f"{answer.candidate}#marked", token_ids=tokens, condition=len(marker))

"""Which answers run once more under other images, and under which. Pure.

A view takes the answers that some pair prefers, in groups with images. `retrieve` shows the image of the round that is
most like each of theirs (Re-Align, https://arxiv.org/abs/2502.13146); a group whose image has nothing to be compared
with has no part in it. The other views are augmentations, weaker with each `level`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.augmentation import changed
from learner.examples import Answer, Example

RETRIEVE: Final = "retrieve"
IMAGES_PER_CHUNK: Final = 1024
"""Images whose likeness to all others is computed at once."""


@dataclass(frozen=True, slots=True)
class Similar:
    """An image borrowed from another group."""

    image: str
    group: str


@dataclass(frozen=True, slots=True)
class Sketch:
    """What two images are compared by."""

    form: tuple[int, ...]
    """Its tokens: only an image of the same form can stand in for another."""
    mean: Tensor  # (hidden,) of the vision tower's features


@dataclass(frozen=True, slots=True)
class Seen:
    """A group's preferred answers under other images."""

    view: str
    example: Example
    images: tuple[str, ...]
    lenders: tuple[str, ...] = ()
    """The groups that the images are of, where they are not its own."""

    @property
    def answers(self) -> list[Answer]:
        """Each once."""
        return [self.example.answers[index] for index in sorted({pair.chosen for pair in self.example.pairs})]


def seen_again(
    views: Sequence[str], examples: Sequence[Example], similar: Mapping[str, Similar], level: int
) -> list[Seen]:
    """View by view."""
    found = []
    for view in views:
        for example in examples:
            if not example.images or not example.pairs:
                continue
            if view != RETRIEVE:
                found.append(Seen(view, example, tuple(changed(view, image, level) for image in example.images)))
            elif all(image in similar for image in example.images):
                lent = [similar[image] for image in example.images]
                found.append(Seen(view, example, tuple(one.image for one in lent), tuple(one.group for one in lent)))
    return found


def find_similar(examples: Iterable[Example], sketches: Mapping[str, Sketch]) -> dict[str, Similar]:
    """For each image the most similar other one of the same form, by the cosine of what is left without the mean.

    Equally similar ones: the first by name. It is lent by the first group that shows it.
    """
    owners: dict[str, str] = {}
    for example in examples:
        for image in example.images:
            owners.setdefault(image, example.group)
    forms: dict[tuple[int, ...], list[str]] = {}
    for image in sorted(owners):
        if image in sketches:
            forms.setdefault(sketches[image].form, []).append(image)
    found: dict[str, Similar] = {}
    for images in forms.values():
        if len(images) > 1:
            nearest = _nearest(torch.stack([sketches[image].mean for image in images]))
            found |= {
                image: Similar(images[other], owners[images[other]])
                for image, other in zip(images, nearest, strict=True)
            }
    return found


def _nearest(means: Tensor) -> list[int]:
    """(n, hidden) → for each row the other row that points most nearly the same way from the centre."""
    centred = torch.nn.functional.normalize(means - means.mean(0), dim=-1)
    nearest: list[int] = []
    for first in range(0, len(centred), IMAGES_PER_CHUNK):
        likeness = centred[first : first + IMAGES_PER_CHUNK] @ centred.T
        rows = torch.arange(len(likeness))
        likeness[rows, rows + first] = -torch.inf
        nearest += likeness.argmax(-1).tolist()
    return nearest

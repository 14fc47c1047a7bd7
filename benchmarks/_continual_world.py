"""The world of `benchmarks.continual` as the rounds go by: what people like, what is in the scenes. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from clients.demo.language import (
    Question,
    description_of,
    description_question,
    named_objects,
    words_beyond_names,
)
from clients.demo.measure import Descriptions
from clients.demo.scenes import EVALUATION_SEEDS, scene_with_tilted
from clients.demo.statistics import Figure, share_over_scenes, wilson

LONG, SHORT = 0.06, -0.06
"""What a word beyond the objects' names is worth to people, besides the .02 that every token costs: they like it long,
then short. The longest wording of two objects has 13 words and tokens more than the shortest: half an object's worth,
then a whole one's."""
TILTED_SHARE: Final = 0.5
"""Of the scenes, once the new shape has appeared."""
CORRECTS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Timeline:
    """Rounds are counted from 1; those of the opening, which make the first adapter worth serving, end with round 0."""

    opening: int
    rounds: int
    taste_changes: int
    """The first round whose signals are given in the new taste."""
    shape_appears: int

    @property
    def numbers(self) -> range:
        """Of all rounds, the opening's too."""
        return range(1 - self.opening, self.rounds + 1)

    def wordiness(self, number: int) -> float:
        return SHORT if number >= self.taste_changes else LONG

    def question(self, number: int) -> Callable[[int], Question]:
        """What people ask in this round, by the scene's seed."""
        return question_of_new_world if number >= self.shape_appears else description_question


def question_of_new_world(seed: int) -> Question:
    has_tilted = random.Random(f"world {seed}").random() < TILTED_SHARE
    return description_of(scene_with_tilted(seed)) if has_tilted else description_question(seed)


def questions_with_tilted(first: int, count: int) -> list[Question]:
    """On scenes of the evaluation from the `first` on, a tilted triangle in each."""
    return [description_of(scene_with_tilted(seed)) for seed in EVALUATION_SEEDS[first : first + count]]


def short_share(found: Descriptions) -> Figure:
    """Share of the answers that say nothing but the objects' names."""
    texts = [text for _, text in found.given]
    return wilson(sum(words_beyond_names(text) == 0 for text in texts), len(texts))


def words(found: Descriptions) -> float:
    """Mean number of words beyond the objects' names."""
    texts = [text for _, text in found.given]
    return sum(map(words_beyond_names, texts)) / len(texts)


def rightly_named(found: Descriptions) -> Figure:
    """Share of the tilted triangles that are named as what they are."""
    counted = []
    for asked, text in found.given:
        tilted = [shape.name for shape in asked.scene.shapes if shape.is_tilted]
        named = named_objects(text)
        counted.append((float(sum(name in named for name in tilted)), float(len(tilted))))
    return share_over_scenes(counted)


def adapted_within(signals: Sequence[int], levels: Sequence[float], reached: float) -> int | None:
    """Signals that people gave after a change until what is served is at `reached`; None: never.

    `signals`: given up to the end of the last round before the change, and of each after it; `levels`: of what was
    served after those.
    """
    adapted = (given for given, level in zip(signals[1:], levels[1:], strict=True) if level >= reached)
    return next((given - signals[0] for given in adapted), None)

"""What a round learns from: the replay's groups as examples, checked, and held to what each may contribute.

Prepared when the round is planned or resumed, and again for what changes on the way. What is left out is counted with
its reason.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from learner.examples import Example, Prepared, Wanted, prepare
from learner.families import fits
from learner.objectives import Needs
from learner.rankings import with_ranks
from learner.recency import aged
from learner.replay import MissingImage
from learner.self_inject import Phrases
from learner.sentences import Cutter
from learner.settings import Settings
from learner.shares import bounded
from learner.spelling import read_spelling
from learner.successes import with_contrast
from learner.unpairing import unpaired
from learner.vision import IMAGES_PER_PASS, UnreadableImage, Vision
from learner.workplace import Workplace
from server.wire.base import BASE
from server.wire.training import TrainingGroup


class Material:
    """`examples` by group, in the order of their arrival. `check` raises when the round has to end."""

    def __init__(self, place: Workplace, check: Callable[[], None]) -> None:
        self._place = place
        self._check = check
        self._wanted = Wanted()
        self._cutter: Cutter | None = None
        self._phrases: Phrases | None = None
        self.examples: dict[str, Example] = {}
        self.skipped: Counter[str] = Counter()

    def gather(self, groups: Iterable[TrainingGroup], settings: Settings, parent: str) -> None:
        """Make examples of these groups for a round that starts from `parent`."""
        self._wanted = self._what_is_wanted(settings, parent)
        self._open_texts(settings)
        told = list(groups)
        self._make(told, settings)
        skipped = self.skipped.copy()
        while self._phrases is not None and len(self.examples) < len(told):
            # Phrases come from the plan's own groups: of all others the round would not be told what is erased.
            told = [group for group in told if group.id in self.examples]
            self._make(told, settings)
        self.skipped = skipped

    def _make(self, groups: Sequence[TrainingGroup], settings: Settings) -> None:
        self.examples = {}
        if self._phrases is not None:
            self._phrases.clear()
            for group in groups:
                self._phrases.put(group)
        for group in groups:
            self._prepare(group)
        self._check_images(list(self.examples.values()))
        self._settle(settings)

    def refresh(self, changed: set[str], settings: Settings, order: Sequence[str]) -> set[str]:
        """Make the changed groups' examples anew, and those that borrowed from them; which groups that were."""
        changed = changed | {
            one.group for one in self.examples.values() if any(answer.owner in changed for answer in one.answers)
        }
        present = []
        for group_id in changed:
            self.examples.pop(group_id, None)
            group = self._place.replay.get(group_id)
            if group is not None:
                present.append(group)
            if self._phrases is not None:
                self._phrases.put(group) if group is not None else self._phrases.drop(group_id)
        for group in present:
            self._prepare(group)
        self._check_images([self.examples[group] for group in changed if group in self.examples])
        self.examples = {group: self.examples[group] for group in order if group in self.examples}
        self._settle(settings)
        return changed

    def renewed(self, origin: str, group: TrainingGroup) -> Prepared:
        """A group's prompt with fresh answers, checked as every group is."""
        prepared = prepare(group, self._place.limits, self._wanted)
        if prepared.example is None:
            return prepared
        example = replace(prepared.example, origin=origin)
        problem = self._problem([example])
        return Prepared(None, (*prepared.skipped, problem)) if problem else Prepared(example, prepared.skipped)

    @property
    def annotators(self) -> set[str]:
        return set[str]().union(*(example.annotators for example in self.examples.values()))

    @property
    def sources(self) -> dict[str, int]:
        """How many examples there are of each source."""
        counts: Counter[str] = Counter()
        for example in self.examples.values():
            counts.update(pair.source for pair in example.pairs)
            given = (thumb for thumb in example.unpaired if thumb.is_given)  # the others are their pairs' word
            counts.update("thumb_up" if thumb.desirable else "thumb_down" for thumb in given)
            counts.update("reward" for one in example.rewarded if not one.is_ranked)  # a rank is its pairs' word
        return dict(counts)

    def thumbs(self, *, desirable: bool) -> float:
        """Sum of the weights of the thumbs of one kind."""
        every = ((example, thumb) for example in self.examples.values() for thumb in example.unpaired)
        return sum(example.recency * thumb.weight for example, thumb in every if thumb.desirable is desirable)

    def _what_is_wanted(self, settings: Settings, parent: str) -> Wanted:
        kinds = settings.recipe().needs
        if settings.rank_rewards or settings.unpair:
            kinds |= {Needs.PAIRS}  # which the ranking, or the thumbs, are made of
        lineage = [parent]
        if Needs.REWARDED in kinds and parent != BASE:
            reply = self._place.patiently(lambda: self._place.client.adapter_lineage(parent), self._check)
            lineage += reply.ancestors
        return Wanted(kinds, settings.source_weights, tuple(lineage), settings.max_staleness)

    def _open_texts(self, settings: Settings) -> None:
        """Raises `SettingsError` where texts are to be read and the vocabulary cannot be."""
        reads = settings.masks_pairs or settings.self_inject > 0
        self._cutter = Cutter(read_spelling(self._place.base_dir), settings.separators) if reads else None
        self._phrases = None
        if self._cutter is not None and settings.self_inject > 0:
            self._phrases = Phrases(self._cutter, settings.self_inject)

    def _prepare(self, group: TrainingGroup) -> None:
        negative = self._phrases.negative(group) if self._phrases is not None else None
        prepared = prepare(group, self._place.limits, self._wanted, negative)
        self.skipped.update(prepared.skipped)
        if prepared.example is not None:
            self.examples[group.id] = prepared.example

    def _settle(self, settings: Settings) -> None:
        """Leave out rewards that teach nothing, hold every annotator within their share, let opinions age."""
        kept, alike = with_contrast(list(self.examples.values()), settings.success_below)
        self.skipped["rewards are all alike"] += alike
        held = bounded(kept, settings.max_annotator_share, settings.min_new_signals)
        left_out = sum(one.count for one in kept) - sum(one.count for one in held)
        self.skipped["beyond one annotator's share"] += left_out
        pairwise = Needs.PAIRS in settings.recipe().needs
        if settings.rank_rewards:
            ranks = (with_ranks(one, self._wanted.weight("reward"), keep_others=pairwise) for one in held)
            held = [one for one in ranks if one is not None]
        if settings.unpair:
            thumbs = (unpaired(one, keep_others=pairwise) for one in held)
            held = [one for one in thumbs if one is not None]
        if self._cutter is not None and settings.masks_pairs:
            held = [self._cutter.masked(one) for one in held]
        self.examples = {one.group: one for one in aged(held, settings.half_life_signals)}

    def _check_images(self, examples: Sequence[Example]) -> None:
        """Compute vision features; take out examples whose images are missing, broken or of another token count."""
        for first in range(0, len(examples), IMAGES_PER_PASS):
            self._check()
            part = examples[first : first + IMAGES_PER_PASS]
            if self._problem(part) is not None:  # find out which
                for example in part:
                    problem = self._problem([example])
                    if problem is not None:
                        self.skipped[problem] += 1
                        del self.examples[example.group]

    def _problem(self, examples: Sequence[Example]) -> str | None:
        place = self._place
        return place.patiently(lambda: image_problem(place.vision, examples, place.base.image_token_id), self._check)


def image_problem(vision: Vision, examples: Sequence[Example], image_token_id: int) -> str | None:
    """What is wrong with the images of these examples, or None. Their features are computed on the way."""
    try:
        vision.load([image for example in examples for image in example.images])
        for example in examples:
            runs = [len(list(run)) for token, run in itertools.groupby(example.prompt) if token == image_token_id]
            if not fits(runs, [vision.features(image) for image in example.images]):
                return "image tokens differ from the placeholders"
    except MissingImage:
        return "image missing"
    except UnreadableImage:
        return "image unreadable"
    return None

"""A group as the server tells it → what can be trained on. Pure; what cannot be used is named, never an error.

Rules: only a candidate that may be a positive is ever preferred; tokens are taken as they were sampled, with no
end-of-sequence added to a cut answer; a poisoned answer takes its pairs with it, not its group's others. Rewards
label answers for policy gradients where the server says that they may (`TrainingGroup.rewarded`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from learner.objectives import Needs
from server.wire.base import BASE
from server.wire.training import Pair, TrainingCandidate, TrainingGroup, Unpaired

HUMAN_SOURCES: Final = frozenset({"choice", "ranking", "correction", "thumbs", "regenerate"})
COMPARISONS: Final = frozenset({"ranking", "choice", "correction"})
"""Sources of pairs that are a person's direct comparison."""
HUMAN: Final = "human"
"""`adapter` of an answer that a person typed."""
MADE: Final = "made"
"""`adapter` of an answer that was made out of others."""
NOT_SAMPLED: Final = frozenset({HUMAN, MADE, "import"})
"""`adapter` of answers that no model of this installation sampled."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the base model can take."""

    base_digest: str
    vocabulary: int
    max_positions: int
    image_token_id: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a round has a use for."""

    kinds: frozenset[Needs] = frozenset({Needs.PAIRS, Needs.UNPAIRED})
    source_weights: Mapping[str, float] = field(default_factory=dict)
    """By which the examples of a source are multiplied; `thumb` and `reward` are sources too. 0 leaves them out."""
    lineage: tuple[str, ...] = (BASE,)
    """The adapter that the round starts from, and its ancestors, the newest first."""
    max_staleness: int = 8
    """Adapters of the lineage by which an answer's own may be older, for a policy gradient."""

    def weight(self, source: str) -> float:
        return self.source_weights.get(source, 1.0)

    def staleness(self, adapter: str) -> int:
        """How many adapters of the lineage are newer than this one. Ids begin with their number; base has 0."""
        return sum(_number(one) > _number(adapter) for one in self.lineage)


def _number(adapter: str) -> int:
    digits = adapter.partition("-")[0].removeprefix("a")
    return int(digits) if digits.isdecimal() else 0


@dataclass(frozen=True, slots=True)
class Answer:
    candidate: str
    token_ids: tuple[int, ...]
    finish_reason: str
    may_be_positive: bool
    is_human: bool
    logprobs: tuple[float, ...] = ()
    """As the engine logged them; empty for answers that it did not sample."""
    total: float | None = None
    """What the ensemble of scorers gave it."""
    drawn_by_base: bool = False
    owner: str = ""
    """The group that it, or a part of it, was drawn in, where it stands in for an answer of another
    (`learner.successes`, `learner.self_inject`)."""
    condition: int = 0
    """So many first tokens are a class's marker, no part of what is learned (`learner.batch`)."""


@dataclass(frozen=True, slots=True)
class PairExample:
    """`chosen` and `rejected` index the example's answers."""

    chosen: int
    rejected: int
    weight: float
    source: str
    annotator: str
    chosen_part: tuple[bool, ...] = ()
    """Of the chosen answer's tokens, those that the pair is about; empty: all (`learner.sentences`)."""
    rejected_part: tuple[bool, ...] = ()

    @property
    def is_endorsed(self) -> bool:
        """Whether a person said so; the others come from the operator's rules and scorers."""
        return self.source in HUMAN_SOURCES


@dataclass(frozen=True, slots=True)
class UnpairedExample:
    answer: int
    desirable: bool
    weight: float
    annotator: str
    is_given: bool = True
    """By a person's thumb; else it follows from what they compared (`learner.unpairing`)."""


@dataclass(frozen=True, slots=True)
class RewardedExample:
    answer: int
    reward: float
    weight: float
    scores: tuple[tuple[str, float], ...] = ()
    """What each scorer gave, by name, where the server tells it."""
    is_baseline: bool = False
    """The answer of its group that others may be measured by: the base's, or the one drawn first."""
    is_ranked: bool = False
    """The reward is a place in what people preferred (`learner.rankings`)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One group: a prompt, the answers that its pairs, thumbs and rewards are about, and those."""

    group: str
    prompt: tuple[int, ...]
    images: tuple[str, ...]
    answers: tuple[Answer, ...]
    pairs: tuple[PairExample, ...]
    unpaired: tuple[UnpairedExample, ...]
    rewarded: tuple[RewardedExample, ...] = ()
    """Two at least, or none."""
    origin: str = ""
    """The group whose prompt it is, where that was answered anew for this very step (`learner.rollouts`)."""
    recency: float = 1.0
    """By which the weights of what people said are multiplied (`learner.recency`)."""

    @property
    def count(self) -> int:
        return len(self.pairs) + len(self.unpaired) + len(self.rewarded)

    @property
    def opinions(self) -> int:
        """How many things people said of it."""
        return sum(pair.is_endorsed for pair in self.pairs) + sum(thumb.is_given for thumb in self.unpaired)

    @property
    def lot(self) -> float:
        """A place in a random order, in [0, 1), by what is asked alone: the same prompt is always in the same place."""
        asked = repr((self.prompt, self.images)).encode()
        return int.from_bytes(hashlib.sha256(asked).digest()[:6]) / 2**48

    @property
    def annotators(self) -> set[str]:
        """The people whose opinions it holds."""
        said = {thumb.annotator for thumb in self.unpaired}
        return said.union(pair.annotator for pair in self.pairs if pair.is_endorsed)

    def gold(self, pair: PairExample) -> int:
        """What the pair's person would have said: their own typed answer, else somebody's, else the chosen one."""
        typed = [one for one in self.pairs if self.answers[one.chosen].is_human]
        own = [one for one in typed if one.annotator == pair.annotator]
        return (own or typed or [pair])[0].chosen

    def reduced(self, pairs: Sequence[PairExample], unpaired: Sequence[UnpairedExample]) -> Example | None:
        """The same group with these of its pairs and thumbs, its rewards, and the answers they are about; or None."""
        used = sorted(
            {answer for pair in pairs for answer in (pair.chosen, pair.rejected)}.union(
                (thumb.answer for thumb in unpaired), (one.answer for one in self.rewarded)
            )
        )
        if not used:
            return None
        place = {answer: index for index, answer in enumerate(used)}
        return replace(
            self,
            answers=tuple(self.answers[answer] for answer in used),
            pairs=tuple(replace(one, chosen=place[one.chosen], rejected=place[one.rejected]) for one in pairs),
            unpaired=tuple(replace(one, answer=place[one.answer]) for one in unpaired),
            rewarded=tuple(replace(one, answer=place[one.answer]) for one in self.rewarded),
        )


@dataclass(frozen=True, slots=True)
class Negative:
    """An answer that was made to be rejected."""

    chosen: str
    """The candidate that is preferred to it."""
    token_ids: tuple[int, ...]
    source: str
    lender: str
    """The group that a part of it is from."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """`example` is None when nothing is left; `skipped` has a reason for each thing that was left out."""

    example: Example | None
    skipped: tuple[str, ...] = ()


def prepare(group: TrainingGroup, limits: Limits, wanted: Wanted, negative: Negative | None = None) -> Prepared:
    """`negative`: one pair more."""
    problem = _prompt_problem(group, limits)
    if problem:
        return Prepared(None, (problem,))
    candidates = {candidate.id: candidate for candidate in group.candidates}
    used: dict[str, int] = {}
    pairs: list[PairExample] = []
    unpaired: list[UnpairedExample] = []
    skipped: list[str] = []

    def index(candidate: str) -> int:
        return used.setdefault(candidate, len(used))

    for pair in group.pairs if Needs.PAIRS in wanted.kinds else ():
        factor = wanted.weight(pair.source)
        problem = _pair_problem(pair, candidates, group, limits)
        if problem:
            skipped.append(problem)
        elif factor > 0:
            chosen, rejected = index(pair.chosen), index(pair.rejected)
            pairs.append(PairExample(chosen, rejected, factor * pair.weight, pair.source, pair.annotator))
    made = _made(negative, candidates)
    if negative is not None and made is not None and wanted.weight(negative.source) > 0:
        problem = _preference_problem(candidates[negative.chosen], made, group, limits)
        if problem:
            skipped.append(problem)
        else:
            candidates[made.id] = made
            weight = wanted.weight(negative.source)
            pairs.append(PairExample(index(negative.chosen), index(made.id), weight, negative.source, ""))
    for thumb in group.unpaired if Needs.UNPAIRED in wanted.kinds else ():
        factor = wanted.weight("thumb")
        problem = _thumb_problem(thumb, candidates, group, limits)
        if problem:
            skipped.append(problem)
        elif factor > 0:
            one = UnpairedExample(index(thumb.candidate), thumb.desirable, factor * thumb.weight, thumb.annotator)
            unpaired.append(one)
    rewards, problems = _rewards(group, limits, wanted)
    skipped += problems
    baseline = _baseline([candidate for candidate, _ in rewards])
    rewarded = tuple(
        RewardedExample(
            index(candidate.id), reward, wanted.weight("reward"), _scores(candidate), candidate.id == baseline
        )
        for candidate, reward in rewards
    )
    if not used:
        return Prepared(None, tuple(skipped) or ("nothing to learn",))
    lender = {made.id: negative.lender} if negative is not None and made is not None else {}
    answers = tuple(_answer(candidates[candidate], lender.get(candidate, "")) for candidate in used)
    example = Example(
        group.id, tuple(group.prompt_token_ids), tuple(group.images), answers, tuple(pairs), tuple(unpaired), rewarded
    )
    return Prepared(example, tuple(skipped))


def _rewards(
    group: TrainingGroup, limits: Limits, wanted: Wanted
) -> tuple[list[tuple[TrainingCandidate, float]], list[str]]:
    """The answers of the group that a policy gradient may use with their rewards, and why others may not.

    A group's answers are compared with each other: one that is left out takes nothing from the others.
    """
    if Needs.REWARDED not in wanted.kinds or not group.rewarded or wanted.weight("reward") <= 0:
        return [], []
    usable: list[tuple[TrainingCandidate, float]] = []
    problems: list[str] = []
    for candidate in group.candidates:
        is_drawn = candidate.adapter not in NOT_SAMPLED and candidate.total is not None
        if not is_drawn or not candidate.may_be_positive or candidate.blocked:
            continue  # no part of what was drawn for this prompt, or never to be learned from
        problem = _reward_problem(candidate, wanted) or _answer_problem(candidate, group, limits)
        if problem:
            problems.append(problem)
        else:
            usable.append((candidate, candidate.total or 0.0))
    return (usable if len(usable) > 1 else []), problems


def _baseline(candidates: Sequence[TrainingCandidate]) -> str:
    """What would have been answered without a choice: the base's answer where there is one, else the first."""
    return next((one.id for one in candidates if one.adapter == BASE), candidates[0].id if candidates else "")


def _scores(candidate: TrainingCandidate) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, value) for name, value in candidate.scores.items() if math.isfinite(value)))


def _reward_problem(candidate: TrainingCandidate, wanted: Wanted) -> str | None:
    if not math.isfinite(candidate.total or 0.0):
        return "reward is not a number"
    if wanted.staleness(candidate.adapter) > wanted.max_staleness:
        return "sampled too many adapters ago"
    return None


def _made(negative: Negative | None, candidates: Mapping[str, TrainingCandidate]) -> TrainingCandidate | None:
    """A negative as a candidate that may never be a positive."""
    if negative is None or negative.chosen not in candidates:
        return None
    return TrainingCandidate(
        id=f"{negative.chosen}~{negative.source}",
        adapter=MADE,
        variant="",
        token_ids=list(negative.token_ids),
        logprobs=[],
        finish_reason=candidates[negative.chosen].finish_reason,
        blocked=False,
        may_be_positive=False,
    )


def _answer(candidate: TrainingCandidate, owner: str) -> Answer:
    return Answer(
        candidate.id,
        tuple(candidate.token_ids),
        candidate.finish_reason,
        may_be_positive=candidate.may_be_positive and not candidate.blocked,
        is_human=candidate.adapter == HUMAN,
        logprobs=tuple(candidate.logprobs),
        total=candidate.total if math.isfinite(candidate.total or 0.0) else None,
        owner=owner,
        drawn_by_base=candidate.adapter == BASE,
    )


def _prompt_problem(group: TrainingGroup, limits: Limits) -> str | None:
    if group.base_digest != limits.base_digest:
        return "another base model"
    if not group.prompt_token_ids:
        return "empty prompt"
    if not _in_vocabulary(group.prompt_token_ids, limits):
        return "token outside the vocabulary"
    if bool(group.images) != (limits.image_token_id in group.prompt_token_ids):
        return "images and placeholders do not match"
    return None


def _pair_problem(
    pair: Pair, candidates: dict[str, TrainingCandidate], group: TrainingGroup, limits: Limits
) -> str | None:
    chosen, rejected = candidates.get(pair.chosen), candidates.get(pair.rejected)
    if chosen is None or rejected is None:
        return "unknown candidate"
    return _weight_problem(pair.weight) or _preference_problem(chosen, rejected, group, limits)


def _preference_problem(
    chosen: TrainingCandidate, rejected: TrainingCandidate, group: TrainingGroup, limits: Limits
) -> str | None:
    if chosen is rejected or chosen.token_ids == rejected.token_ids:
        return "chosen and rejected are the same"
    if not chosen.may_be_positive or chosen.blocked:
        return "chosen may not be a positive"
    return _answer_problem(chosen, group, limits) or _answer_problem(rejected, group, limits)


def _thumb_problem(
    thumb: Unpaired, candidates: dict[str, TrainingCandidate], group: TrainingGroup, limits: Limits
) -> str | None:
    candidate = candidates.get(thumb.candidate)
    if candidate is None:
        return "unknown candidate"
    if thumb.desirable and (not candidate.may_be_positive or candidate.blocked):
        return "chosen may not be a positive"
    return _weight_problem(thumb.weight) or _answer_problem(candidate, group, limits)


def _weight_problem(weight: float) -> str | None:
    return None if math.isfinite(weight) and weight > 0 else "weight is not a positive number"


def _answer_problem(candidate: TrainingCandidate, group: TrainingGroup, limits: Limits) -> str | None:
    if not candidate.token_ids:
        return "empty answer"
    if not _in_vocabulary(candidate.token_ids, limits):
        return "token outside the vocabulary"
    if limits.image_token_id in candidate.token_ids:
        return "image placeholder in an answer"
    return _logprobs_problem(candidate) or _length_problem(candidate, group, limits)


def _logprobs_problem(candidate: TrainingCandidate) -> str | None:
    if not all(math.isfinite(value) for value in candidate.logprobs):
        return "log-probability is not finite"
    may_lack_them = candidate.adapter in NOT_SAMPLED and not candidate.logprobs
    if len(candidate.logprobs) != len(candidate.token_ids) and not may_lack_them:
        return "log-probabilities do not match the tokens"
    return None


def _length_problem(candidate: TrainingCandidate, group: TrainingGroup, limits: Limits) -> str | None:
    if len(group.prompt_token_ids) + len(candidate.token_ids) > limits.max_positions:
        return "longer than the model's context"
    return None


def _in_vocabulary(token_ids: list[int], limits: Limits) -> bool:
    return min(token_ids) >= 0 and max(token_ids) < limits.vocabulary

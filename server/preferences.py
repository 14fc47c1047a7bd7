"""What becomes of signals: pairs and unpaired examples, derived from a group's present state. Pure.

One derivation serves the feed, the export and the gate. Rules, in order of `docs/concepts.md`:

- choice, ranking → each better ≻ each worse, weight 1; ties are not trained on;
- correction ≻ the answer that was shown, unless the alias's rules block the correction;
- a thumb → unpaired; with a sibling that the ensemble ranks clearly the other way, a pair of half weight as well;
- "again" and then up → later ≻ earlier, of quarter weight, in the earlier group, which then holds a copy of the later
  answer (`server.regenerations`); the later group has its thumb;
- a blocked candidate ≺ a clean sibling, of the pair weight that the alias sets;
- nothing said → best ≻ worst by the ensemble, where the alias allows it and no scorer failed;
- candidates with rewards, said of or not → a group for policy gradients, where the alias allows it (`_is_rewarded`).

A candidate whose shown text or prompt differed from what was sampled is never a positive, and one of another prompt (a
hidden instruction) is no part of any example: it would be learned as an answer to the user's. Two answers that read the
same make no pair: all they could teach is how to end. One that was given up half-way teaches nothing. What a person
typed counts by that person's word alone, so it is no part of a safety pair, which would outlive the word.

The sentences that a stepwise answer was chosen from are compared by rules and ensemble alone, and only with their
siblings: those that go on from the same beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from server.config import SignalsConfig
from server.store.records import HUMAN, CandidateRecord, GroupRecord, GroupState, SignalKind, SignalRecord
from server.wire.training import Pair, PairSource, Unpaired

RULES_ANNOTATOR = "rules"
ENSEMBLE_ANNOTATOR = "ensemble"
THUMB_PAIR_WEIGHT = 0.5
REGENERATE_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class Examples:
    """What a group teaches at present."""

    pairs: tuple[Pair, ...] = ()
    unpaired: tuple[Unpaired, ...] = ()
    rewarded: bool = False
    """The candidates' totals may label a policy gradient."""

    def __bool__(self) -> bool:
        return bool(self.pairs or self.unpaired or self.rewarded)


def derive(group: GroupRecord, signals: Sequence[SignalRecord], settings: SignalsConfig) -> Examples:
    """The group's examples. `signals` are its live ones; aborted, failed and erased groups teach nothing."""
    if group.state is not GroupState.COMPLETED:
        return Examples()
    rewarded = settings.reward_groups and _is_rewarded(group)
    compared = [one for one in group.candidates if one.is_comparable]
    group = replace(group, candidates=tuple(one for one in compared if one.is_whole))
    known = {candidate.id: candidate for candidate in group.candidates}
    pairs: list[Pair] = []
    unpaired: list[Unpaired] = []
    for signal in signals:
        match signal.kind:
            case SignalKind.CHOICE:
                better, worse = [signal.payload["chosen"]], signal.payload["rejected"]
                # An imported opinion says where it comes from and what it weighs.
                source, weight = signal.payload.get("source", "choice"), signal.payload.get("weight", 1.0)
                pairs += _pairs(known, ((b, w) for b in better for w in worse), source, weight, signal.annotator)
            case SignalKind.RANKING:
                order = signal.payload["ranking"]
                ordered = ((b, w) for i, b in enumerate(order) for w in order[i + 1 :])
                pairs += _pairs(known, ordered, "ranking", 1.0, signal.annotator)
            case SignalKind.CORRECTION:
                pair = (signal.payload["correction_id"], signal.payload["candidate_id"])
                pairs += _pairs(known, [pair], "correction", 1.0, signal.annotator)
            case SignalKind.REGENERATE:
                pair = (signal.payload["chosen"], signal.payload["rejected"])
                pairs += _pairs(known, [pair], "regenerate", REGENERATE_WEIGHT, signal.annotator)
            case SignalKind.RATING:
                one, thumb_pairs = _from_rating(group, known, signal, settings)
                unpaired += one
                pairs += thumb_pairs
            case SignalKind.TIE | SignalKind.COMMENT:
                continue
    for siblings in _siblings(compared):
        if settings.safety_pairs:
            pairs += _safety_pairs(siblings, settings.safety_pair_weight)
        if settings.ai_pairs and not signals and not group.degraded:
            pairs += _ai_pairs(siblings, settings.ai_margin)
    return Examples(tuple(pairs), tuple(unpaired), rewarded)


def _is_rewarded(group: GroupRecord) -> bool:
    """Whether a policy gradient may use it: drawn from the distribution whose log-probabilities are logged, no scorer
    failed, none given up half-way (the rest would be a choice by reward), and two answers that are worth unlike much.
    """
    if not group.on_policy_sampling or group.degraded or not all(one.is_whole for one in group.candidates):
        return False
    return len({one.total for one in group.candidates if one.total is not None and one.may_be_positive}) > 1


def _pairs(
    known: dict[str, CandidateRecord], ids: Iterable[tuple[str, str]], source: PairSource, weight: float, annotator: str
) -> list[Pair]:
    return [
        Pair(chosen=better, rejected=worse, source=source, weight=weight, annotator=annotator)
        for better, worse in ids
        if better in known and worse in known and _is_lesson(known[better], known[worse])
    ]


def _is_lesson(better: CandidateRecord, worse: CandidateRecord) -> bool:
    is_own = bool(worse.token_ids) and not worse.variant  # of the user's own prompt
    return better.may_be_positive and is_own and better.text != worse.text


def _from_rating(
    group: GroupRecord, known: dict[str, CandidateRecord], signal: SignalRecord, settings: SignalsConfig
) -> tuple[list[Unpaired], list[Pair]]:
    rating: float = signal.payload["rating"]
    rated = known.get(signal.payload["candidate_id"])
    if rated is None or rating == 0 or not rated.token_ids or rated.variant:
        return [], []
    is_up = rating > 0
    if is_up and not rated.may_be_positive:
        return [], []
    unpaired = [Unpaired(candidate=rated.id, desirable=is_up, weight=min(1.0, abs(rating)), annotator=signal.annotator)]
    if rated.total is None or group.degraded:
        return unpaired, []
    siblings = [
        one
        for one in group.candidates
        if one.id != rated.id
        and one.total is not None
        and not one.is_blocked
        and not one.variant
        and one.text != rated.text
    ]
    sign = 1 if is_up else -1
    clear = [one for one in siblings if sign * (rated.total - (one.total or 0.0)) >= settings.ai_margin]
    if not clear:
        return unpaired, []
    other = max(clear, key=lambda one: sign * ((rated.total or 0.0) - (one.total or 0.0)))
    ids = (rated.id, other.id) if is_up else (other.id, rated.id)
    return unpaired, _pairs(known, [ids], "thumbs", THUMB_PAIR_WEIGHT * min(1.0, abs(rating)), signal.annotator)


def _siblings(candidates: Iterable[CandidateRecord]) -> list[list[CandidateRecord]]:
    """Those that branched off at the same place, together: all of a group, but for stepwise answers."""
    branches: dict[int, list[CandidateRecord]] = {}
    for one in candidates:
        branches.setdefault(one.shared_tokens, []).append(one)
    return list(branches.values())


def _safety_pairs(candidates: Iterable[CandidateRecord], weight: float) -> list[Pair]:
    answers = [one for one in candidates if one.adapter != HUMAN]
    blocked = [one for one in answers if one.was_found_unsafe]
    clean = [one for one in answers if one.may_be_positive]
    if not blocked or not clean:
        return []
    # Each blocked candidate against the clean one the ensemble likes best: one lesson each, not a cross product.
    best = max(clean, key=lambda one: (one.total is not None, one.total or 0.0, -one.position))
    known = {one.id: one for one in (*blocked, best)}
    return _pairs(known, ((best.id, one.id) for one in blocked), "safety", weight, RULES_ANNOTATOR)


def _ai_pairs(candidates: Iterable[CandidateRecord], margin: float) -> list[Pair]:
    ranked = sorted(
        (one for one in candidates if one.total is not None and one.may_be_positive),
        key=lambda one: one.total or 0.0,
    )
    if len(ranked) < 2 or (ranked[-1].total or 0.0) - (ranked[0].total or 0.0) < margin:
        return []
    known = {one.id: one for one in ranked}
    return _pairs(known, [(ranked[-1].id, ranked[0].id)], "ai", 1.0, ENSEMBLE_ANNOTATOR)

"""What a request says, as opinions: each with the slot that a later one about the same thing takes over. Pure.

Only what was shown can be judged. An answer that was broken off, or failed, shows no candidate; an opinion about it is
kept without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from server.errors import BadRequest
from server.store.records import CandidateRecord, GroupRecord, GroupState, SignalKind
from server.wire.signals import FeedbackRequest, PreferenceRequest

RATINGS: Final = {"up": 1.0, "down": -1.0}
COMPARISON: Final = "comparison"
"""The slot of choice, ranking and tie: a person has one opinion on how a completion's answers compare."""


@dataclass(frozen=True, slots=True)
class Opinion:
    kind: SignalKind
    slot: str
    payload: dict[str, Any]


def first_shown(group: GroupRecord) -> CandidateRecord | None:
    """The first choice of those that were shown."""
    return max(group.shown, key=lambda one: (one.is_chosen, one.probability, -one.position), default=None)


def judged(group: GroupRecord, wanted: str | None) -> CandidateRecord | None:
    """The answer that feedback is about; None where there is none to name. Raises `BadRequest`."""
    if wanted is not None:
        return _shown(group, wanted, "candidate_id")
    first = first_shown(group)
    if first is None and group.state is GroupState.COMPLETED:
        raise BadRequest("This completion showed no answer.", param="completion_id")
    return first


def of_feedback(
    request: FeedbackRequest, candidate: CandidateRecord | None, correction: CandidateRecord | None
) -> list[Opinion]:
    """A rating, a correction, or both; without either, a comment or labels. Comment and labels go with each."""
    name = candidate.id if candidate is not None else None
    said: dict[str, Any] = {"candidate_id": name} if name is not None else {}
    if request.comment is not None:
        said["comment"] = request.comment
    if request.labels:
        said["labels"] = request.labels

    def opinion(kind: SignalKind, slot: str, **more: Any) -> Opinion:
        return Opinion(kind, f"{slot}:{name or ''}", {**said, **more})

    opinions = []
    if request.rating is not None:
        rating = RATINGS[request.rating] if isinstance(request.rating, str) else request.rating
        opinions.append(opinion(SignalKind.RATING, "rating", rating=rating))
    if correction is not None:
        opinions.append(opinion(SignalKind.CORRECTION, "correction", correction_id=correction.id))
    return opinions or [opinion(SignalKind.COMMENT, "comment" if request.comment is not None else "labels")]


def of_preference(group: GroupRecord, request: PreferenceRequest) -> Opinion:
    """A choice, a ranking or a tie; raises `BadRequest` where it names what was not shown."""
    for param, ids in (("chosen", [request.chosen]), ("rejected", request.rejected), ("ranking", request.ranking)):
        for one in ids or []:
            if one is not None:
                _shown(group, one, param)
    if request.ranking is not None:
        return Opinion(SignalKind.RANKING, COMPARISON, {"ranking": request.ranking})
    if request.tie is not None:
        return Opinion(SignalKind.TIE, COMPARISON, {"tie": request.tie})
    return Opinion(SignalKind.CHOICE, COMPARISON, {"chosen": request.chosen, "rejected": request.rejected})


def _shown(group: GroupRecord, wanted: str, param: str) -> CandidateRecord:
    candidate = group.candidate(wanted)
    if candidate is None or not candidate.is_shown:
        raise BadRequest(f"{param} names no answer that this completion showed.", param=param)
    return candidate

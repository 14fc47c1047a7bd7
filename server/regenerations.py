"""Asked again, and then liked: the later answer is weakly better than the earlier one.

A pair lives inside one group, so the earlier group gets a copy of the later answer, as it gets a correction, and a
signal of its own that says so. Both prompts were the same to the last token (else the copy's log-probabilities would
not be those of this prompt). Both answers were the same person's and the same adapter's: erasing the person, and
setting the adapter's signals aside, reach the copy too; and the earlier group never outlives the later.
"""

from __future__ import annotations

import dataclasses

from sqlalchemy import Connection

from server.ids import candidate_id, new_id
from server.opinions import first_shown
from server.store import groups, signals
from server.store.records import CandidateRecord, FeedKind, GroupRecord, GroupState, SignalKind, SignalRecord


def is_same_question(later: GroupRecord, earlier: GroupRecord) -> bool:
    """Whether an answer of the one could be an answer of the other."""
    return later.state is earlier.state is GroupState.COMPLETED and all(
        getattr(later, name) == getattr(earlier, name)
        for name in ("tenant", "user_hash", "alias", "adapter", "base_digest", "prompt_digest", "prompt_token_ids")
    )


def note(
    connection: Connection, later: GroupRecord, rated: CandidateRecord, rating: SignalRecord
) -> tuple[GroupRecord, FeedKind] | None:
    """Keep "later ≻ earlier" where the rating is an up, and withdraw it where it no longer is.

    Returns the earlier group when what it teaches has changed, with what the feed is to call the change.
    """
    earlier = groups.get_group(connection, later.regenerate_of) if later.regenerate_of is not None else None
    if earlier is None or not is_same_question(later, earlier):
        return None
    slot = f"regenerate:{rated.id}"
    refused = first_shown(earlier)
    if rating.payload["rating"] <= 0 or refused is None or not _differs(rated, refused):
        is_withdrawn = signals.retire(connection, earlier.id, rating.annotator, slot)
        return (earlier, FeedKind.OVERRIDE) if is_withdrawn else None
    copy = dataclasses.replace(
        rated,
        id=candidate_id(earlier.id, rated.id.replace(".", "-")),
        shared_tokens=0,  # with candidates of the later group
        is_shown=False,
        probability=0.0,
        total=None,
    )
    if earlier.candidate(copy.id) is None:
        groups.add_candidate(connection, earlier.id, copy)
    payload = {"chosen": copy.id, "rejected": refused.id, "completion_id": later.id}
    signal = SignalRecord(
        new_id("sig"), earlier.id, SignalKind.REGENERATE, slot, rating.annotator, rating.created_at, payload
    )
    return earlier, FeedKind.OVERRIDE if signals.insert_signal(connection, signal) else FeedKind.SIGNAL


def _differs(rated: CandidateRecord, refused: CandidateRecord) -> bool:
    return rated.may_be_positive and bool(refused.token_ids) and rated.token_ids != refused.token_ids

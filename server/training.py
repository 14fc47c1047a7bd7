"""Groups as training data on the wire."""

from __future__ import annotations

import math

from server.preferences import Examples
from server.store.records import HUMAN, GroupRecord
from server.wire.training import TrainingCandidate, TrainingGroup


def to_training_group(group: GroupRecord, examples: Examples) -> TrainingGroup:
    """The group with its tokens and examples. Left out are candidates without tokens (refusals), those of another
    prompt than the user's (`variant`) or given up half-way, sentences of a stepwise answer that no pair is about, and
    corrections that were taken back or replaced.
    """
    used = {one for pair in examples.pairs for one in (pair.chosen, pair.rejected)}
    return TrainingGroup(
        id=group.id,
        alias=group.alias,
        generation=group.generation,
        prompt_token_ids=list(group.prompt_token_ids),
        images=[media.sha256 for media in group.media],
        base_digest=group.base_digest,
        on_policy_sampling=group.on_policy_sampling,
        candidates=[
            TrainingCandidate(
                id=one.id,
                adapter=one.adapter,
                variant=one.variant,
                token_ids=list(one.token_ids),
                logprobs=list(one.logprobs),
                finish_reason=one.finish_reason,
                blocked=one.is_blocked,
                may_be_positive=one.may_be_positive,
                total=one.total,
                scores={
                    name: value for name, (_, value) in one.scores.items() if value is not None and math.isfinite(value)
                },
                shared_tokens=one.shared_tokens,
            )
            for one in group.candidates
            if one.token_ids and not one.variant and (one.id in used or (one.is_whole and one.adapter != HUMAN))
        ],
        pairs=list(examples.pairs),
        unpaired=list(examples.unpaired),
        rewarded=examples.rewarded,
    )

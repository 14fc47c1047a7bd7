"""What happened in one request, as the one record that everything learns from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from sqlalchemy import Connection

from reward.types import Judgement
from server import faults, prompts
from server.config import AliasConfig
from server.engine.port import Sampling
from server.ids import candidate_id
from server.pipeline.task import ChatTask, Outcome
from server.preferences import Examples, derive
from server.store import feed, groups
from server.store.records import POLICY, CandidateRecord, FeedKind, GroupRecord, GroupState

REFUSAL_VARIANT = "refusal"
SAMPLING_FIELDS = tuple(field.name for field in dataclasses.fields(Sampling))


def build_record(
    task: ChatTask, outcome: Outcome, *, base_digest: str, engine_version: str, duration_s: float
) -> GroupRecord:
    """The group: prompt, every candidate with its judgement, and how the choice was made."""
    prompt_digest = prompts.digest(task.prompt)
    candidates = tuple(
        _candidate(task, outcome, position, judgement) for position, judgement in enumerate(outcome.judgements)
    )
    if outcome.is_refused:
        candidates = (*candidates, refusal(task, len(candidates)))
    return GroupRecord(
        id=task.completion_id,
        tenant=task.tenant,
        alias=task.alias.name,
        state=outcome.state,
        created_at=task.created_at,
        generation=outcome.assignment.generation,
        adapter=outcome.assignment.adapter,
        is_canary=outcome.assignment.is_canary,
        user_hash=task.user_hash,
        prompt_digest=prompt_digest,
        is_holdout=prompts.is_holdout(prompt_digest, task.alias.signals.holdout_share),
        regenerate_of=task.regenerate_of,
        prompt=prompts.to_row(task.prompt),
        sampling={name: getattr(task.sampling, name) for name in SAMPLING_FIELDS},
        on_policy_sampling=task.sampling.is_on_policy and not task.is_stepwise,
        prompt_token_ids=outcome.prompt_token_ids,
        base_digest=base_digest,
        engine_version=engine_version,
        selection=outcome.selection.strategy,
        degraded=outcome.degraded,
        candidates=candidates,
        media=prompts.media_of(task.prompt),
        reward=outcome.reward,
        duration_s=duration_s,
    )


def refusal(task: ChatTask, position: int) -> CandidateRecord:
    """The configured text that is shown when every candidate was blocked: shown, never learned from."""
    return CandidateRecord(
        id=candidate_id(task.completion_id, position),
        position=position,
        adapter=POLICY,
        variant=REFUSAL_VARIANT,
        text=task.alias.refusal,
        shown_text=None,
        token_ids=(),
        logprobs=(),
        finish_reason="content_filter",
        is_shown=True,
        is_blocked=False,
        probability=1.0,
        total=None,
        is_chosen=True,
    )


def _candidate(task: ChatTask, outcome: Outcome, position: int, judgement: Judgement) -> CandidateRecord:
    one = judgement.candidate
    probabilities = outcome.selection.probabilities
    return CandidateRecord(
        id=candidate_id(task.completion_id, position),
        position=position,
        adapter=one.adapter,
        variant=one.variant,
        text=one.text,
        shown_text=judgement.shown_text,
        token_ids=one.token_ids,
        logprobs=one.logprobs,
        finish_reason=one.finish_reason,
        is_shown=position in outcome.shown,
        is_chosen=position == outcome.selection.index,
        is_blocked=judgement.is_blocked,
        probability=probabilities[position] if probabilities else 0.0,
        total=judgement.value,
        shared_tokens=one.shared_tokens,
        scores={score.scorer: [score.version, score.value] for score in judgement.scores},
        verdicts={verdict.rule: [verdict.version, verdict.action, verdict.reason] for verdict in judgement.verdicts},
    )


def may_train(group: GroupRecord, alias: AliasConfig) -> bool:
    """Whether anything of this group may ever leave through the feed."""
    return group.state is GroupState.COMPLETED and not group.is_holdout and group.tenant in alias.train_tenants


def store_groups(connection: Connection, stored: Sequence[tuple[GroupRecord, bool]]) -> None:
    """Keep the groups; tell the feed at once of those that already teach something (`taught_at_once`)."""
    faults.point("chat.before_insert")
    groups.insert_groups(connection, [group for group, _ in stored])
    faults.point("chat.after_insert")
    teaching: dict[str, list[str]] = {}
    for group, teaches in stored:
        if teaches:
            teaching.setdefault(group.alias, []).append(group.id)
    for alias, ids in teaching.items():
        feed.append_all(connection, alias, ids, FeedKind.SIGNAL, time.time())


def taught_at_once(group: GroupRecord, alias: AliasConfig) -> Examples:
    """What there is to learn before anybody has said anything (safety, AI feedback)."""
    return derive(group, [], alias.signals) if may_train(group, alias) else Examples()

"""Records made by hand."""

from __future__ import annotations

from typing import Any

from server.store.records import CandidateRecord, GroupRecord, GroupState, MediaRecord


def candidate(group_id: str, position: int, **changes: Any) -> CandidateRecord:
    values: dict[str, Any] = {
        "id": f"{group_id}.{position}",
        "position": position,
        "adapter": "base",
        "variant": "",
        "text": f"answer {position}",
        "shown_text": None,
        "token_ids": (1, 2, 3 + position),
        "logprobs": (-0.5, -0.25, -1.0),
        "finish_reason": "stop",
        "is_shown": True,
        "is_blocked": False,
        "probability": 0.5,
        "total": float(position),
    }
    return CandidateRecord(**{**values, **changes})


def group(group_id: str, *, candidates: int = 2, media: tuple[MediaRecord, ...] = (), **changes: Any) -> GroupRecord:
    values: dict[str, Any] = {
        "id": group_id,
        "tenant": "default",
        "alias": "default",
        "state": GroupState.COMPLETED,
        "created_at": 1000.0,
        "generation": 0,
        "adapter": "base",
        "is_canary": False,
        "user_hash": "user",
        "prompt_digest": "0" * 64,
        "is_holdout": False,
        "regenerate_of": None,
        "prompt": [{"role": "user", "content": [{"text": "hello"}]}],
        "sampling": {"temperature": 1.0},
        "on_policy_sampling": True,
        "prompt_token_ids": (1, 2, 3),
        "base_digest": "0" * 64,
        "engine_version": "1",
        "selection": "argmax",
        "degraded": (),
        "candidates": tuple(
            candidate(group_id, position, adapter=changes.get("adapter", "base")) for position in range(candidates)
        ),
        "media": media,
    }
    return GroupRecord(**{**values, **changes})
